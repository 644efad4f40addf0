"""macOS runs everything, Windows is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from packaging.requirements import Requirement
from toy_runs import experiment, losses

from vlrun.engine.precision import check_precision
from vlrun.engine.ranks import choose_device, gpu_names
from vlrun.errors import ConfigError
from vlrun.interfaces.tensors import Batch
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("verb", ["run", "doctor", "list-plugins", "--help"])
def test_windows_is_refused_in_one_line(verb: str) -> None:
    """Also where neither fcntl nor the signals of batch systems can be imported."""
    code = (
        "import signal, sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; del signal.SIGUSR1\n"
        f"from vlrun.cli import main; sys.exit(main([{verb!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vlrun runs on Linux and macOS, not on Windows: use it in WSL 2")
    assert len(done.stderr.splitlines()) == 1


def test_pip_refuses_windows_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {line for line in project["classifiers"] if line.startswith("Operating System")} == {
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
    }
    (refusal,) = (one for line in project["dependencies"] if (one := Requirement(line)).name == project["name"])
    assert project["version"] not in refusal.specifier
    assert refusal.marker is not None
    platforms = ("win32", "linux", "darwin")
    assert [refusal.marker.evaluate({"sys_platform": name}) for name in platforms] == [True, False, False]


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "arm64")


@pytest.mark.usefixtures("apple")
def test_apples_gpu_is_used_by_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device() == torch.device("mps")
    assert gpu_names() == ["arm64 GPU (MPS)"]
    assert choose_device(0, 2) == torch.device("cpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert choose_device(0, 1) == torch.device("cpu")


def test_without_any_gpu_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    assert gpu_names() == []


def test_apples_gpu_gets_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: moved.append(tensor) or tensor)
    targets = {"boxes": torch.ones(2, dtype=torch.float64), "ids": torch.ones(2, dtype=torch.int64)}
    Batch(("a",), None, targets).to("mps")  # type: ignore[arg-type]
    assert [tensor.dtype for tensor in moved] == [torch.float32, torch.int64]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_device_does_not_offer_is_refused(precision: str) -> None:
    check_precision(precision, torch.device("cpu"))
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match=rf"train\.precision {precision}: torch .* does not offer it on mps"):
            check_precision(precision, torch.device("mps"))


def test_a_precision_that_torch_silently_ignores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_: torch.no_grad())
    with pytest.raises(ConfigError, match=r"does not offer it on cpu \(it computes in torch\.float32\); use fp32"):
        check_precision("bf16", torch.device("cpu"))
    check_precision("fp32", torch.device("cpu"))


@pytest.mark.slow
def test_loader_workers_that_are_spawned_as_on_macos_make_the_same_batches(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)
    for name in ("posix_fallocate", "sched_getaffinity", "memfd_create"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    method = mp.get_start_method()
    mp.set_start_method("spawn", force=True)
    try:
        spawned = run_experiment(experiment(world, plugins, "train.epochs=1", "train.workers=1"), plugins=plugins)
    finally:
        mp.set_start_method(method, force=True)
    assert losses(spawned) == losses(usual)
