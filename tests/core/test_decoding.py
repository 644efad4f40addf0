"""What of a head's outputs leaves the device in an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment

from vlrun import Batch, Prediction
from vlrun.engine import evaluation
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment


def test_only_what_a_task_decodes_is_copied_and_scores_stay_the_same(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)
    copied: list[torch.Tensor] = []

    def on_cpu(outputs: torch.Tensor) -> torch.Tensor:
        copied.append(outputs)
        return outputs.cpu()

    def predict(task: toy.ToyTask, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction(name, {"answer": int(answer)}) for name, answer in zip(batch.ids, outputs, strict=True)]

    def decode(task: toy.ToyTask, outputs: Any, batch: Batch) -> torch.Tensor:
        assert outputs.shape == (len(batch.ids), 2)
        return outputs.argmax(dim=1)

    monkeypatch.setattr(evaluation, "on_cpu", on_cpu)
    monkeypatch.setattr(toy.ToyTask, "predict", predict)
    monkeypatch.setattr(toy.ToyTask, "decode", decode)
    after = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)

    assert [row.score for row in after.rows] == [row.score for row in before.rows]
    assert {(outputs.ndim, outputs.dtype) for outputs in copied} == {(1, torch.int64)}
