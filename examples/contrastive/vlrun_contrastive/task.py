"""Contrastive learning of text-image pairs: a pair is known by itself under another dropout (as in Gao et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlrun import Backbone, BackboneOutput, Batch, NamedHead, Task, TrainingPass, TrainingStep
from vlrun_contrastive.config import ContrastiveVqaConfig
from vlrun_vqa.task import VqaTask


class Outputs(NamedTuple):
    """What the task's own head gives, and embeddings of P pairs (P, D), of length 1."""

    own: Any
    embeddings: Tensor


class ContrastiveHead(nn.Module):
    """A task's head with a projection beside it, a temperature, and a queue (K, D) of earlier embeddings."""

    def __init__(self, own: nn.Module, hidden_size: int, width: int, temperature: float, queue: int) -> None:
        super().__init__()
        self.own = own
        self.reads_pooled_alone = getattr(own, "reads_pooled_alone", False)
        self.project = nn.Linear(hidden_size, width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.register_buffer("queue", normalize(torch.randn(queue, width), dim=1))

    def forward(self, output: BackboneOutput) -> Outputs:
        """Pooled outputs (P, H), and what the task's own head reads -> its outputs and embeddings (P, D)."""
        return Outputs(self.own(output), normalize(self.project(output.pooled), dim=1))


class Contrastive(Task[Any]):
    """Put before a task, this makes it learn to tell its pairs apart as well."""

    contrast, width, temperature, queue = 0.1, 64, 0.07, 0

    def build_head(self, backbone: Backbone) -> nn.Module:
        own = super().build_head(backbone)
        return ContrastiveHead(own, backbone.hidden_size, self.width, self.temperature, self.queue)

    def training_outputs(self, batch: Batch, step: TrainingPass) -> tuple[Outputs, Tensor]:
        """The outputs of a pass, and the embeddings of a second one."""
        return step.outputs(batch.encoding), step.outputs(batch.encoding).embeddings

    def loss(self, outputs: tuple[Outputs, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().loss(outputs[0].own, targets)

    def shared_rows(self, outputs: tuple[Outputs, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both embeddings of each pair."""
        return {"first": outputs[0].embeddings, "second": outputs[1]}

    def batch_loss(self, rows: Mapping[str, Tensor], step: TrainingStep) -> dict[str, Tensor]:
        """InfoNCE: which of all pairs of the step, and of the queue, is this one?"""
        first, others = rows["first"], torch.cat([rows["second"], step.head.queue])
        logits = first @ others.T * step.head.log_scale.exp()
        own = torch.arange(len(first), device=first.device)
        step.report("told apart", (logits.argmax(1) == own).sum(), len(first))
        return {"contrast": self.contrast * cross_entropy(logits, own)}

    def after_update(self, rows: Mapping[str, Tensor], step: TrainingStep) -> None:
        """The queue takes the newest embeddings and forgets the oldest."""
        if len(step.head.queue):
            step.head.queue.copy_(torch.cat([step.head.queue, rows["second"]])[-len(step.head.queue) :])

    def decode(self, outputs: Outputs, batch: Batch) -> Any:
        return super().decode(outputs.own, batch)

    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        return super().named_heads(head.own)


class ContrastiveVqa(Contrastive, VqaTask):
    """Visual question answering beside contrastive learning."""

    def __init__(self, config: ContrastiveVqaConfig) -> None:
        super().__init__(config)
        self.contrast, self.width = config.contrast, config.width
        self.temperature, self.queue = config.temperature, config.queue
