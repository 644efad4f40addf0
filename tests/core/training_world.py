"""The toy world with what plugins can change of a step: losses of the global batch, companions, callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from toy_world import ToyTask

from vlrun import (
    Callback,
    CallbackConfig,
    Entry,
    EvaluationReport,
    TaskConfig,
    TrainingPass,
    TrainingStep,
    hookimpl,
)
from vlrun.interfaces.tensors import Batch
from vlrun_contrastive.task import Contrastive
from vlrun_distillation.task import Distilled
from vlrun_r_drop.task import RDrop


class ContrastiveToy(Contrastive, ToyTask):
    """With a slow copy of the network, and a queue that is no multiple of what a step brings."""

    contrast, width, temperature, queue, momentum = 1.0, 4, 0.5, 7, 0.75


class RDropToy(RDrop, ToyTask):
    pass


class TaughtConfig(TaskConfig):
    teacher: Path


class DistilledToy(Distilled, ToyTask):
    @classmethod
    def from_config(cls, config: TaughtConfig) -> DistilledToy:
        task = cls()
        task.teacher = config.teacher
        return task


class WholeToy(ToyTask):
    """Has no loss that is a sum; its rows are as wide as the texts are long, where ``wide`` says so."""

    wide = False

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def training_outputs(self, batch: Batch, step: TrainingPass) -> Tensor:
        outputs: Tensor = super().training_outputs(batch, step)
        step.report("ones", (batch.targets["label"] == 1).sum(), len(batch.ids))
        return outputs

    def shared_rows(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        odd = targets["label"] == 1
        return {"logits": outputs[:, : 1 + len(outputs) % 2] if self.wide else outputs, "odd": odd}

    def batch_loss(self, rows: Mapping[str, Tensor], step: TrainingStep) -> dict[str, Tensor]:
        """How the difference of the logits goes with the label, over the whole batch."""
        difference = rows["logits"][:, 0] - rows["logits"][:, -1]
        wanted = rows["odd"].to(difference.dtype)
        products = (difference - difference.mean()) * (wanted - wanted.mean())
        level = (difference.mean() - 0.7).square()
        return {"correlation": level - products.mean() / (difference.std() * wanted.std() + 1)}


class Watch(Callback):
    """Notes what it is told, halves the gradients where its options say so, and counts steps in its state."""

    told: list[Any]

    def __init__(self, letter: str, halves: bool, told: list[Any] | None = None) -> None:
        self.letter, self.halves, self.steps = letter, halves, 0
        self.told = TOLD if told is None else told

    @classmethod
    def from_config(cls, config: WatchConfig) -> Watch:
        return cls(config.letter, config.halves)

    def after_backward(self, step: TrainingStep) -> None:
        gradients = [parameter.grad for parameter in step.model.parameters() if parameter.grad is not None]
        self.told.append(("backward", self.letter, step.position, float(sum(each.abs().sum() for each in gradients))))
        if self.halves:
            torch._foreach_mul_(gradients, 0.5)
        step.report(f"steps {self.letter}", self.steps)

    def after_update(self, step: TrainingStep) -> None:
        self.steps += 1
        self.told.append(("update", self.letter, step.position, step.learning_rate))

    def after_evaluation(self, report: EvaluationReport, model: nn.Module) -> None:
        self.told.append(("evaluation", self.letter, report.step, report.scores[0].value))

    def state(self) -> Mapping[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])


class WatchConfig(CallbackConfig):
    letter: str = "a"
    halves: bool = Field(False)


TOLD: list[Any] = []


@hookimpl
def vlrun_tasks() -> list[Entry]:
    classes = {"contrastive": ContrastiveToy, "r-drop": RDropToy, "distilled": DistilledToy, "whole": WholeToy}
    return [
        Entry(
            name=name,
            summary="",
            config="training_world:TaughtConfig" if name == "distilled" else "vlrun:TaskConfig",
            factory=f"training_world:{kind.__name__}.from_config",
            target="class",
        )
        for name, kind in classes.items()
    ]


@hookimpl
def vlrun_callbacks() -> list[Entry]:
    return [
        Entry(name="watch", summary="", config="training_world:WatchConfig", factory="training_world:Watch.from_config")
    ]
