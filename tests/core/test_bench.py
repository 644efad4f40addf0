"""``runner bench``: the figures of an experiment, never how large they are."""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from toy_runs import experiment

from vlrun.cli import bench as verb
from vlrun.cli import main
from vlrun.engine.ranks import Ranks
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.bench import products, startup
from vlrun.runs.bench.clock import Laps
from vlrun.runs.bench.measure import BenchOptions, measure
from vlrun.runs.bench.memory import anonymous_bytes
from vlrun.runs.bench.products import data_sheet_rate
from vlrun.runs.bench.record import as_table
from vlrun.runs.bench.timed import PARTS
from vlrun.testing import run_ranks

CPU = torch.device("cpu")
BASELINE = """
    import copy
    from vlrun import Baseline

    def baselines(backbone):
        network = copy.deepcopy(backbone)
        {change}
        return [Baseline("a copy", "nothing is different", network, pads_texts=False)]
"""
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(products._SIDES, "cpu", 64)


@pytest.fixture
def bench(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``bench(*words)``: the verb on the toy experiment."""
    monkeypatch.setattr(verb, "create_plugins", lambda: plugins)
    roots = [f"data_root={world / 'data'}", f"runs_root={world / 'runs'}"]
    return lambda *words: main(["bench", str(world / "toy.yaml"), *roots, *words])


@pytest.fixture
def baseline(tmp_path: Path) -> Callable[[str], Path]:
    """``baseline(change)``: a folder with a baseline of the backbone, changed by a line of code."""

    def write(change: str) -> Path:
        (tmp_path / "against").mkdir()
        (tmp_path / "against" / "toy.py").write_text(dedent(BASELINE).format(change=change))
        return tmp_path / "against"

    return write


def of(rows: list[Row], part: str, **case: Any) -> dict[str, Row]:
    chosen = [row for row in rows if row["part"] == part and all(row[key] == value for key, value in case.items())]
    return {row["what"]: row for row in chosen}


def test_figures_are_told_and_recorded(
    bench: Callable[..., int],
    baseline: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    against, record = ["--against", str(baseline("pass"))], ["--json", str(tmp_path / "bench.json")]
    cases = ["--steps", "2", "--batch", "4,6", "--precision", "fp32,bf16", "--only", "features,step"]
    assert bench(*cases, *against, *record) == 0

    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "bench.json").read_text())
    assert set(written) == {"schema", "date", "vlrun", "machine", "experiment", "rows"}
    assert written["machine"]["device"] == "cpu"
    assert written["experiment"]["backbone"] == "toy"
    for row in written["rows"]:
        assert row["what"] in shown
        assert all(math.isfinite(number) for number in (row["value"], *row["ratios"].values())), row
        assert all(ratio > 0 for ratio in row["ratios"].values()), row
    assert {(row["batch"], row["precision"]) for row in written["rows"] if row["part"] == "step"} == {
        (batch, precision) for batch in (4, 6) for precision in ("fp32", "bf16")
    }
    for precision in ("fp32", "bf16"):
        step = of(written["rows"], "step", batch=6, precision=precision)
        assert sum(step[part]["value"] for part in PARTS) == pytest.approx(step["whole"]["value"])
        assert all(step[part]["value"] > 0 for part in PARTS), "each part has a place in the step"
        assert step["examples"]["ratios"].keys() == {"a copy"}
        assert step["examples"]["ratios"]["a copy"] == pytest.approx(
            step["examples"]["value"] / step["a copy"]["value"]
        )
        again = of(written["rows"], "processor time", batch=6, precision=precision)
        assert again["examples"]["ratios"].keys() == {"a copy"}
        assert again["of the matmul-limited rate"]["value"] > 0
    features = of(written["rows"], "features")
    assert {"TSV, seek and base64", "npz per image", "store, through one loader worker"} < features.keys()
    assert features["store, in this process"]["ratios"].keys() == {"TSV, seek and base64", "npz per image"}


def test_products_are_counted_by_their_shapes(world: Path, plugins: Plugins) -> None:
    record = measured(world, plugins, "step")
    assert {row["precision"] for row in record["rows"] if row["part"] == "step"} == {"fp32"}, "as auto was settled"
    step = of(record["rows"], "step")
    regions = 6 * 2 * 3  # examples, pairs, regions
    linear = 2 * regions * 10 * 5 * 2  # forward; backward of the weight alone, for its input needs no gradient
    head = 2 * 6 * 10 * 2 * 3
    assert step["operations"]["value"] * 1e9 == pytest.approx(linear + head)
    assert step["operations"]["precision"] == "fp32", "as it was measured, not 'auto'"


def measured(world: Path, plugins: Plugins, *parts: str, ranks: Ranks | None = None, trace: Path | None = None) -> Any:
    options = BenchOptions(steps=1, parts=parts, trace=trace)
    record = measure(
        lambda overrides: experiment(world, plugins, *overrides),
        options,
        plugins,
        ranks or Ranks(0, 1, CPU),
        Reporters([]),
    )
    return record.as_json()


def test_a_baseline_that_computes_something_else_says_nothing(
    bench: Callable[..., int], baseline: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = baseline("network.project.bias.data += 0.1")
    assert bench("--steps", "1", "--only", "step", "--against", str(folder)) != 0
    assert "baseline 'a copy' computes something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "0"], "--steps 0: write a number above 0"),
        (["--batch", "8,x"], "--batch x: write a number above 0"),
        (["--precision", "int8"], "--precision int8: write one of fp32, bf16, fp16"),
        (["--only", "stairs"], "--only stairs: write one of start-up, features, step, task"),
        (["--json", "nowhere/at/all.json"], "its folder is not there"),
        (["--against", "nowhere"], "--against nowhere: there is no such file or folder"),
        (["--only", "task"], "the task has no evaluation of its own"),
        (["--only", "step", "--against", "."], r"--against .: there is no toy.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_said(
    bench: Callable[..., int],
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*words) == 2
    assert said in capsys.readouterr().err


def test_a_trace_is_written(world: Path, plugins: Plugins, tmp_path: Path) -> None:
    measured(world, plugins, "step", trace=tmp_path / "trace")
    assert list((tmp_path / "trace").glob("*.pt.trace.json*"))
    assert (tmp_path / "trace" / "operators.txt").is_file()


def test_several_processes_tell_what_communication_costs(world: Path, plugins: Plugins, tmp_path: Path) -> None:
    record, other = run_ranks(lambda ranks: measured(world, plugins, "step", ranks=ranks), tmp_path, 2)
    step = of(record["rows"], "step")
    assert record["experiment"]["processes"] == 2
    assert step["communication"]["value"] > 0
    assert sum(step[part]["value"] for part in PARTS) == pytest.approx(step["whole"]["value"])
    assert of(other["rows"], "step").keys() == step.keys()


def test_quick_commands_are_started(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = next(iter(startup._COMMANDS))
    monkeypatch.setattr(startup, "_COMMANDS", {bare: ["-c", "pass"], "sleeping": ["-c", "import time; time.sleep(1)"]})
    monkeypatch.setattr(startup, "_REPEATS", 1)
    rows = of(measured(world, plugins, "start-up", "step")["rows"], "start-up")
    assert rows["sleeping"]["value"] > 1000
    assert rows["sleeping"]["ratios"] == {bare: rows["sleeping"]["value"] / rows[bare]["value"]}


def test_every_moment_belongs_to_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(100))
    monkeypatch.setattr("vlrun.runs.bench.clock.time.perf_counter", lambda: float(next(moments)))
    laps = Laps(CPU)
    with laps.within("before any step"):
        pass
    laps.start("other")
    laps.to("forward")
    with laps.within("waiting"), laps.within("copy"):
        pass
    laps.to("backward")
    assert laps.stop() == {"other": 1, "forward": 2, "waiting": 2, "copy": 1, "backward": 1}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
def test_memory_of_its_own_is_that_of_no_file() -> None:
    # a mapping of its own: the allocator may hand out memory that the process already holds
    with mmap.mmap(-1, 2**28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        before = anonymous_bytes("self")
        block.write(bytes(2**28))
        assert anonymous_bytes("self") - before > 2**27
    assert anonymous_bytes("0") == 0


def test_data_sheets_are_found_by_the_name_of_the_card() -> None:
    assert data_sheet_rate("NVIDIA H100 PCIe") == 756e12
    assert data_sheet_rate("NVIDIA H100 80GB HBM3") == 989e12
    assert data_sheet_rate("NVIDIA L40S") == 362e12
    assert data_sheet_rate("NVIDIA GeForce GT 710") is None


def test_a_table_has_a_line_for_each_ratio() -> None:
    row = {"part": "step", "what": "x", "value": 12345.6, "unit": "ms", "note": "why", "batch": 8, "precision": "fp32"}
    record = {
        "rows": [{**row, "ratios": {"this": 2.0, "that": 0.5}}],
        "machine": {"device": "cpu"},
        "experiment": {"name": "e", "backbone": "b", "parameters": 1, "data": "demo", "processes": 1},
    }
    assert as_table(record).rows[0] == ("step", "x", "8, fp32", "12,346", "ms", "2.00 x this\n0.50 x that\nwhy")
