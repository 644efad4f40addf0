"""R-Drop (Wu et al. 2021): two passes that differ in dropout alone should predict the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from vlrun import Batch, Task, TrainingPass
from vlrun_r_drop.config import RDropVqaConfig
from vlrun_vqa.task import VqaTask


class RDrop(Task[Any]):
    """Put before a task whose head gives logits (B, C), this makes it train with R-Drop."""

    agreement = 0.5

    def training_outputs(self, batch: Batch, step: TrainingPass) -> tuple[Tensor, Tensor]:
        """The logits of two passes, each with a dropout of its own."""
        return step.outputs(batch.encoding), step.outputs(batch.encoding)

    def loss(self, outputs: tuple[Tensor, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The task's losses, the mean of both passes, and how far these diverge (formula 3 of the paper)."""
        both = [super(RDrop, self).loss(logits, targets) for logits in outputs]
        one, other = (logits.log_softmax(1) for logits in outputs)
        divergence = sum(kl_div(*pair, reduction="sum", log_target=True) for pair in ((one, other), (other, one)))
        means = {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}
        return {**means, "agreement": self.agreement * divergence / 2}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the task; all examples agree, also those without a label."""
        count = len(next(iter(targets.values())))
        return {**super().loss_counts(targets), "agreement": torch.tensor(float(count))}


class RDropVqa(RDrop, VqaTask):
    """Visual question answering with R-Drop."""

    def __init__(self, config: RDropVqaConfig) -> None:
        super().__init__(config)
        self.agreement = config.agreement
