"""The profile of a few steps: a trace that TensorBoard opens, and a table to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vlrun.reporting.profiler import profile


def train(folder: Path, steps: int, total_steps: int | None = None) -> None:
    layer = torch.nn.Linear(8, 8)
    with profile(folder, torch.device("cpu"), total_steps) as profiler:
        for _ in range(steps):
            layer(torch.ones(4, 8)).sum().backward()
            profiler.step()


def test_a_profile_leaves_one_trace_of_a_few_steps_and_a_table_of_operators(tmp_path: Path) -> None:
    train(tmp_path / "traces", steps=20)
    (trace,) = (tmp_path / "traces").glob("*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert len([name for name in names if str(name).startswith("ProfilerStep#")]) == 3
    table = (tmp_path / "traces" / "operators.txt").read_text()
    assert "aten::addmm" in table
    assert "Self CPU" in table


def test_tensorboard_profiler_plugin_reads_the_trace(tmp_path: Path) -> None:
    plugin = pytest.importorskip("torch_tb_profiler.plugin")
    train(tmp_path / "traces", steps=10)
    run = plugin.RunLoader("traces", str(tmp_path / "traces"), plugin.io.Cache()).load()
    (recorded,) = run.profiles.values()
    assert {"overall", "operator", "trace"} <= {view.name for view in recorded.views}


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_a_training_shorter_than_the_schedule_is_recorded_too(tmp_path: Path, steps: int) -> None:
    train(tmp_path / "traces", steps=steps, total_steps=steps)
    assert "aten::addmm" in (tmp_path / "traces" / "operators.txt").read_text()


def test_an_error_of_the_training_comes_through(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"), profile(tmp_path / "traces", torch.device("cpu")):
        raise ValueError("not finite")
