"""What only a GPU can show: that its numbers are those of the CPU, that nothing waits for it, and that it is used."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlrun.cli import main
from vlrun.config.experiment import Experiment
from vlrun.config.features import FeaturesConfig
from vlrun.demo.run import load_demo_experiment
from vlrun.engine import training
from vlrun.engine.ranks import Ranks
from vlrun.engine.stopping import StopRequest
from vlrun.errors import StoppedOnRequest
from vlrun.plugins.manager import create_plugins
from vlrun.runs import run as runs
from vlrun.runs.run import RunResult, run_experiment

GPU, CPU = torch.device("cuda"), torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
ON_VQA = ("rosita_vqa", "lxmert_s_vqa", "lxmert_vqa")
SHORT = ("train.epochs=1", "train.log_every=1", "tasks.0.dataset.limit=256", "train.order_seed=0")
PLAIN = ("backbone.dropout=0", "backbone.weights=null", "train.precision=fp32")  # the same numbers on any device
REPORTERS = ("reporters=[{name: jsonl}]", "built_in_reporters=false")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use"),
]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The demo data are generated once."""
    before = os.environ.get("VLRUN_CACHE")
    os.environ.setdefault("VLRUN_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    if before is None:
        del os.environ["VLRUN_CACHE"]


@pytest.fixture
def exact() -> Iterator[None]:
    """Products in full float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def demo(name: str, root: Path, *overrides: str) -> Experiment:
    path, given = ROOT / "experiments" / f"{name}.yaml", [*REPORTERS, f"runs_root={root}", *overrides]
    return load_demo_experiment(path, given, create_plugins(), lambda message: None)


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunResult]:
    def run(device: torch.device, experiment: Experiment, **options: Any) -> RunResult:
        monkeypatch.setattr(runs, "join_ranks", lambda *_: nullcontext(Ranks(0, 1, device)))
        return run_experiment(experiment, **options)

    return run


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]


@pytest.mark.parametrize("name", ON_VQA)
def test_a_gpu_trains_as_the_cpu_does(name: str, run_on: Callable[..., RunResult], tmp_path: Path, exact: None) -> None:
    ours, theirs = (
        losses(run_on(device, demo(name, tmp_path / device.type, *SHORT, *PLAIN)).folder) for device in (GPU, CPU)
    )
    assert len(ours) > 3
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)


@pytest.mark.parametrize("name", ON_VQA)
def test_half_precision_learns_as_full_precision_does(
    name: str, run_on: Callable[..., RunResult], tmp_path: Path
) -> None:
    full, half = (
        losses(run_on(GPU, demo(name, tmp_path / precision, *SHORT, *PLAIN, f"train.precision={precision}")).folder)
        for precision in ("fp32", "bf16")
    )
    assert all(map(math.isfinite, half))
    assert half == pytest.approx(full, rel=5e-2)


@pytest.mark.parametrize("name", [*ON_VQA, "rosita_refcoco+", "rosita_itr_flickr", "lxmert_nlvr2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(
    name: str,
    precision: str,
    run_on: Callable[..., RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch raises an error wherever the host would wait; the first steps may, for they make the optimiser's state."""
    taken: list[int] = []
    train_step = training.train_step

    def watched(*arguments: Any) -> Any:
        taken.append(1)
        torch.cuda.set_sync_debug_mode("error" if len(taken) > 2 else "default")
        try:
            return train_step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training, "train_step", watched)
    own = (f"train.precision={precision}", "backbone.weights=null", "train.workers=2", "train.log_every=100")
    run_on(GPU, demo(name, tmp_path, *SHORT, *own))
    assert len(taken) > 3


def test_the_demo_learns_on_a_gpu(run_on: Callable[..., RunResult], tmp_path: Path) -> None:
    result = run_on(GPU, demo("rosita_refcoco+", tmp_path))
    accuracies = [row.score.value for row in result.rows if row.score.primary]
    assert accuracies
    assert min(accuracies) > 50


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(
    run_on: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = losses(run_on(GPU, demo("rosita_vqa", tmp_path / "unbroken", *SHORT)).folder)
    request, train_step = StopRequest(), training.train_step

    def stopped_in_the_third(trainer: Any, step: Any, feed: Any) -> Any:
        if step.loaded.planned.position == 2:
            request.signal = signal.SIGTERM
        return train_step(trainer, step, feed)

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_step", stopped_in_the_third)
        patched.setattr(runs, "stop_on_signals", lambda: nullcontext(request))
        with pytest.raises(StoppedOnRequest):
            run_on(GPU, demo("rosita_vqa", tmp_path / "broken", *SHORT))
    continued = run_on(GPU, demo("rosita_vqa", tmp_path / "broken", *SHORT), continues=True)
    assert losses(continued.folder) == pytest.approx(unbroken, rel=1e-3)


def test_scores_of_pairs_are_those_of_the_cpu(run_on: Callable[..., RunResult], tmp_path: Path, exact: None) -> None:
    own = ("train.epochs=0", "backbone.weights=null", "train.precision=fp32", "tasks.0.dataset.evaluate=[val]")
    matrices = []
    for device in (GPU, CPU):
        folder = run_on(device, demo("rosita_itr_flickr", tmp_path / device.type, *own)).folder
        matrices.append(np.load(folder / "scores" / "retrieval_val.npy"))
    assert np.allclose(*matrices, atol=1e-4)


@pytest.mark.skipif("residency" not in FeaturesConfig.model_fields, reason="features have no residency to choose")
def test_features_on_the_device_are_those_of_the_workers(run_on: Callable[..., RunResult], tmp_path: Path) -> None:
    device, workers = (
        losses(run_on(GPU, demo("rosita_vqa", tmp_path / where, *SHORT, f"features.residency={where}")).folder)
        for where in ("device", "workers")
    )
    assert device == pytest.approx(workers, rel=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_two_gpus_train_as_one_does(run_on: Callable[..., RunResult], tmp_path: Path) -> None:
    alone = losses(run_on(GPU, demo("rosita_vqa", tmp_path / "one", *SHORT)).folder)
    experiment = ROOT / "experiments" / "rosita_vqa.yaml"
    command = [sys.executable, ROOT / "runner.py", "run", experiment, "--demo", "--nproc", "2"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "two", *REPORTERS, *SHORT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (path.resolve() for path in (tmp_path / "two").glob("*/latest"))
    assert losses(folder) == pytest.approx(alone, rel=1e-3)


def test_a_benchmark_knows_the_memory_of_the_card(tmp_path: Path) -> None:
    record = tmp_path / "bench.json"
    words = ["--demo", "--steps", "2", "--batch", "8", "--precision", "bf16", "--only", "step", "backbone.size=tiny"]
    experiment = ROOT / "experiments" / "lxmert_s_vqa.yaml"
    assert main(["bench", str(experiment), *words, "--json", str(record)]) == 0
    written = json.loads(record.read_text())
    rows = {row["what"]: row["value"] for row in written["rows"]}
    assert written["machine"]["device"] == "cuda"
    assert rows["device, peak of tensors"] > 0
    assert 0 < rows["of the measured peak"] < 100
