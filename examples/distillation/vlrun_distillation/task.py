"""Distillation (Hinton et al. 2015): besides its targets, a task learns what the network of another run says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from vlrun import Batch, ConfigError, Task, TrainingPass, load_network
from vlrun_distillation.config import DistilledVqaConfig
from vlrun_vqa.task import VqaTask


class Taught(NamedTuple):
    """Logits (B, C) of the network that learns, and of the teacher."""

    own: Tensor
    teacher: Tensor


class Distilled(Task[Any]):
    """Put before a task whose head gives logits (B, C), this makes it learn from a run of the same classes."""

    teacher: Path
    imitation, temperature = 1.0, 2.0

    def companions(self) -> Mapping[str, nn.Module]:
        """The teacher.

        Raises:
            ConfigError: its classes are not this task's.
        """
        teacher = load_network(self.teacher)
        if teacher.meaning != self.head_meaning():
            raise ConfigError(f"teacher {self.teacher}: its classes are not those of this task, or in another order")
        return {"teacher": teacher}

    def training_outputs(self, batch: Batch, step: TrainingPass) -> Taught:
        return Taught(step.outputs(batch.encoding), step.ask(step.companions["teacher"], batch.encoding))

    def loss(self, outputs: Taught, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The task's losses, and the divergence from the teacher, whose gradient keeps its size at any temperature."""
        own, teacher = ((logits / self.temperature).log_softmax(1) for logits in outputs)
        divergence = kl_div(own, teacher, reduction="sum", log_target=True) * self.temperature**2
        return {**super().loss(outputs.own, targets), "imitation": divergence * self.imitation}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the task; the teacher knows something of every example."""
        count = len(next(iter(targets.values())))
        return {**super().loss_counts(targets), "imitation": torch.tensor(float(count))}


class DistilledVqa(Distilled, VqaTask):
    """Visual question answering that learns from another run."""

    def __init__(self, config: DistilledVqaConfig) -> None:
        super().__init__(config)
        self.teacher, self.imitation, self.temperature = config.teacher, config.imitation, config.temperature
