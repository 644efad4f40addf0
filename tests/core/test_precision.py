"""The precision of a run: settled when it starts, kept when it goes on elsewhere, and said with every score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from toy_runs import experiment, lines, stop_after

from vlrun.engine.precision import precision_name, set_product_precision, settle_precision
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.errors import StoppedOnRequest
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run
from vlrun.runs.run import run_experiment

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def settings(folder: Path) -> dict[str, object]:
    train: dict[str, object] = yaml.safe_load((folder / "config.yaml").read_text())["train"]
    return train


@pytest.mark.parametrize(
    ("capability", "options", "settled", "named"),
    [
        ((9, 0), [], "bf16", "bf16"),
        ((7, 5), [], "fp32", "fp32"),
        ((8, 0), ["train.precision=fp32"], "fp32", "tf32"),
        ((8, 0), ["train.precision=fp32", "train.tf32=false"], "fp32", "fp32"),
        ((7, 5), ["train.precision=fp16"], "fp16", "fp16"),
    ],
)
def test_a_gpu_computes_as_fast_as_it_can(
    world: Path,
    plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    options: list[str],
    settled: str,
    named: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    loaded = experiment(world, plugins, *options)
    assert settle_precision(loaded, GPU).train.precision == settled
    assert precision_name(loaded, GPU) == named


def test_products_of_float32_are_allowed_tf32_unless_it_is_forbidden(world: Path, plugins: Plugins) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        set_product_precision(experiment(world, plugins), CPU)
        assert torch.get_float32_matmul_precision() == "high"
        set_product_precision(experiment(world, plugins, "train.tf32=false"), CPU)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_cpu_computes_in_full_and_the_run_says_so(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    assert settings(result.folder)["precision"] == "fp32"
    assert all("precision" not in row["protocol"] for row in lines(result, "result"))


def test_a_run_goes_on_in_the_precision_in_which_it_started(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        patch.setattr("vlrun.engine.precision._has", lambda *_: True)  # a GPU that has bf16
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    result = run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert settings(result.folder)["precision"] == "bf16"
    assert {row["protocol"]["precision"] for row in lines(result, "result")} == {"bf16"}
    opened = OpenedRun(RunFolder(result.folder), experiment(world, plugins), plugins)  # where no GPU is
    again = evaluate_run(opened, Ranks(0, 1, CPU), Reporters([]))
    assert {row.score.protocol["precision"] for row in again} == {"bf16"}
