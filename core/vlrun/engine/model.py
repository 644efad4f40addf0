"""One shared backbone with a head for each task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.tensors import Encoding


def weights_sum(model: nn.Module) -> float:
    """One number by which ranks see whether they start from the same weights."""
    return sum(parameter.detach().double().sum().item() for parameter in model.parameters())


def weights_fingerprint(modules: Sequence[nn.Module]) -> str:
    """A hash of all parameters and buffers, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TaskModel(nn.Module):
    """Runs the backbone and one head; the other heads take no part in the step and get no gradient."""

    def __init__(self, backbone: Backbone, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))

    def forward(self, task: str, encoding: Encoding) -> Any:
        return self.heads[task](self.backbone(encoding))
