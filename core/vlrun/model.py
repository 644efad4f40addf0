"""One shared backbone with a head for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vlrun.backbone import Backbone
from vlrun.tensors import Encoding


def weights_sum(model: nn.Module) -> float:
    """One number by which ranks see whether they start from the same weights."""
    return sum(parameter.detach().double().sum().item() for parameter in model.parameters())


class TaskModel(nn.Module):
    """Runs the backbone and one head; the other heads take no part in the step and get no gradient."""

    def __init__(self, backbone: Backbone, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))

    def forward(self, task: str, encoding: Encoding) -> Any:
        return self.heads[task](self.backbone(encoding))
