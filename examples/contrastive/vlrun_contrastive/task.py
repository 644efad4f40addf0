"""Contrastive learning of text-image pairs: a pair is known by itself under another dropout (as in Gao et al. 2021).

The other embedding of a pair may be that of a slow copy of the network, as in MoCo (He et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlrun import Backbone, BackboneOutput, Batch, Encoding, NamedHead, RunView, Task, TrainingPass, TrainingStep
from vlrun_contrastive.config import ContrastiveVqaConfig
from vlrun_vqa.task import VqaTask


class Outputs(NamedTuple):
    """What the task's own head gives, and embeddings of P pairs (P, D), of length 1."""

    own: Any
    embeddings: Tensor


class SlowEncoder(nn.Module):
    """A copy of backbone and projection that follows them; nothing else trains it."""

    def __init__(self, backbone: Backbone, project: nn.Module) -> None:
        super().__init__()
        self.copies = nn.ModuleList([deepcopy(backbone), deepcopy(project)]).requires_grad_(False)
        self.register_buffer("has_started", torch.tensor(False))

    def forward(self, encoding: Encoding) -> Tensor:
        """P pairs -> embeddings (P, D), of length 1."""
        backbone, project = self.copies
        return normalize(project(backbone(encoding).pooled), dim=1)

    @torch.no_grad()
    def follow(self, originals: Iterator[nn.Parameter], momentum: float) -> None:
        """Moves to ``momentum`` of itself and the rest of the originals."""
        for slow, original in zip(self.copies.parameters(), originals, strict=True):
            slow.lerp_(original, 1 - momentum)


class ContrastiveHead(nn.Module):
    """A task's head with a projection beside it, a temperature, and a queue (K, D) of earlier embeddings."""

    def __init__(self, own: nn.Module, hidden_size: int, width: int, temperature: float, queue: int) -> None:
        super().__init__()
        self.own = own
        self.reads_pooled_alone = getattr(own, "reads_pooled_alone", False)
        self.project = nn.Linear(hidden_size, width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.slow: SlowEncoder | None = None
        self.register_buffer("queue", normalize(torch.randn(queue, width), dim=1))

    def forward(self, output: BackboneOutput) -> Outputs:
        """Pooled outputs (P, H), and what the task's own head reads -> its outputs and embeddings (P, D)."""
        return Outputs(self.own(output), normalize(self.project(output.pooled), dim=1))


class Contrastive(Task[Any]):
    """Put before a task, this makes it learn to tell its pairs apart as well."""

    contrast, width, temperature, queue, momentum = 0.1, 64, 0.07, 0, 0.0

    def build_head(self, backbone: Backbone) -> nn.Module:
        own = super().build_head(backbone)
        head = ContrastiveHead(own, backbone.hidden_size, self.width, self.temperature, self.queue)
        if self.momentum:
            head.slow = SlowEncoder(backbone, head.project)
        return head

    def start_epoch(self, epoch: int, run: RunView) -> None:
        """Sets the slow copy to what training starts from; a resumed run goes on with its own."""
        super().start_epoch(epoch, run)
        if (slow := run.head.slow) is not None and not slow.has_started:
            slow.follow(_originals(run), 0.0)
            slow.has_started.fill_(True)

    def training_outputs(self, batch: Batch, step: TrainingPass) -> tuple[Outputs, Tensor]:
        """The outputs of a pass, and the embeddings of a second one, or of the slow copy."""
        outputs = step.outputs(batch.encoding)
        if step.head.slow is not None:
            return outputs, step.ask(step.head.slow, batch.encoding)
        return outputs, step.outputs(batch.encoding).embeddings

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
        """The queue takes the newest embeddings and forgets the oldest; the slow copy follows."""
        if step.head.slow is not None:
            step.head.slow.follow(_originals(step), self.momentum)
        if len(step.head.queue):
            step.head.queue.copy_(torch.cat([step.head.queue, rows["second"]])[-len(step.head.queue) :])

    def decode(self, outputs: Outputs, batch: Batch) -> Any:
        return super().decode(outputs.own, batch)

    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        return super().named_heads(head.own)


def _originals(of: RunView | TrainingStep) -> Iterator[nn.Parameter]:
    yield from of.backbone.parameters()
    yield from of.head.project.parameters()


class ContrastiveVqa(Contrastive, VqaTask):
    """Visual question answering beside contrastive learning."""

    def __init__(self, config: ContrastiveVqaConfig) -> None:
        super().__init__(config)
        self.contrast, self.width = config.contrast, config.width
        self.temperature, self.queue, self.momentum = config.temperature, config.queue, config.momentum
