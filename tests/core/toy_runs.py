"""Running the toy world's experiment, and reading what it left."""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from vlrun.config.experiment import Experiment, load_experiment
from vlrun.engine import training
from vlrun.engine.ranks import Ranks
from vlrun.engine.steps import ReadyStep
from vlrun.engine.stopping import StopRequest
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.run import RunResult, run_experiment
from vlrun.testing import run_ranks


def experiment(world: Path, plugins: Plugins, *overrides: str, runs_root: str = "runs") -> Experiment:
    roots = [f"data_root={world / 'data'}", f"runs_root={world / runs_root}"]
    return load_experiment(world / "toy.yaml", [*roots, *overrides], plugins=plugins)


def lines(result: RunResult | Path, kind: str) -> list[dict[str, Any]]:
    folder = result if isinstance(result, Path) else result.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def losses(result: RunResult | Path) -> list[float]:
    return [row["loss"] for row in lines(result, "step")]


def weights(result: RunResult | Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = result if isinstance(result, Path) else result.folder
    return load_file(folder / "checkpoints" / "last" / "model.safetensors")


class StopAfter(StopRequest):
    """Asks for a stop when it has been looked at a number of times, as a signal at that moment would."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            self.signal = signal.SIGTERM
        return self.signal is not None


def stop_after(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    monkeypatch.setattr(runs, "stop_on_signals", lambda: nullcontext(StopAfter(looks)))


def stop_after_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A signal comes during this step, which is finished."""
    request, train_step = StopRequest(), training.train_step

    def stop_in_step(trainer: Any, ready: ReadyStep, feed: Any) -> Any:
        if ready.loaded.planned.position + 1 == step:
            request.signal = signal.SIGTERM
        return train_step(trainer, ready, feed)

    monkeypatch.setattr(training, "train_step", stop_in_step)
    monkeypatch.setattr(runs, "stop_on_signals", lambda: nullcontext(request))


def ranks_run(world: Path, plugins: Plugins, world_size: int, *overrides: str) -> list[Any]:
    """Runs the experiment on forked ranks; gives each rank's result rows."""
    loaded = experiment(world, plugins, *overrides, runs_root=f"runs{world_size}")

    def body(ranks: Ranks) -> Any:
        runs.join_ranks = lambda timeout, threads: nullcontext(ranks)
        result = run_experiment(loaded, plugins=plugins)
        return result.folder, [(row.split, row.score) for row in result.rows]

    return run_ranks(body, world, world_size)
