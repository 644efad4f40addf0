"""Weights that a backbone prepares for scoring: once for an evaluation, in the run's precision, not for a few pairs."""

from __future__ import annotations

import copy
from pathlib import Path

import matching_world as toy
import numpy as np
import pytest
import torch
from matching_world import experiment

from vlrun import load_run
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types for which weights were prepared; what is prepared is a copy of the toy backbone."""
    types: list[torch.dtype] = []

    def for_scoring(self: toy.CaptionBackbone, dtype: torch.dtype) -> toy.CaptionBackbone:
        types.append(dtype)
        return copy.deepcopy(self)

    monkeypatch.setattr(toy.CaptionBackbone, "for_scoring", for_scoring)
    return types


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_are_prepared_once_for_an_evaluation(
    caption_world: Path, caption_plugins: Plugins, prepared: list[torch.dtype], precision: str, dtype: torch.dtype
) -> None:
    options = ["train.epochs=0", "tasks.0.dataset.evaluate=[test]", f"train.precision={precision}"]
    run_experiment(experiment(caption_world, caption_plugins, *options), plugins=caption_plugins)
    assert prepared == [dtype]


def test_each_evaluation_and_each_mining_has_the_weights_of_its_time(
    caption_world: Path, caption_plugins: Plugins, prepared: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["tasks.0.mines=true", "train.epochs=2"]
    result = run_experiment(experiment(caption_world, caption_plugins, *options), plugins=caption_plugins)
    assert len(prepared) > 2
    monkeypatch.undo()
    loaded = experiment(caption_world, caption_plugins, *options, runs_root="anew")
    again = run_experiment(loaded, plugins=caption_plugins)
    matrices = [np.load(folder / "scores" / "matching_test.npy") for folder in (result.folder, again.folder)]
    assert (matrices[0] == matrices[1]).all()


def test_weights_are_not_prepared_for_a_question_with_few_images(
    caption_world: Path, caption_plugins: Plugins, prepared: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = experiment(caption_world, caption_plugins, "train.epochs=1")
    run = load_run(run_experiment(loaded, plugins=caption_plugins).folder, plugins=caption_plugins)
    prepared.clear()
    few = run.ask("text 1", ["img1", "img2"])
    assert prepared == []
    monkeypatch.setattr("vlrun_retrieval.scorer._WORTH_PREPARING", 2)
    assert run.ask("text 1", ["img1", "img2"]) == few
    assert prepared == [torch.float32]
