"""A backbone with weights to load, a file of them and a format that reads it, as small as they can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlrun.errors import CheckpointError
from vlrun.interfaces.backbone import Backbone, PairEncoder
from vlrun.interfaces.tensors import BackboneOutput, Encoding
from vlrun.plugins.entries import WeightFormat


class ToyBackbone(Backbone):
    """A backbone of 201 tensors (201 numbers), so that two missing ones are under 1 %; and a matching head."""

    hidden_size = 1
    vocabulary_hash = "abc"
    optional_weights = ("matching",)
    unused_weights = ("answers",)
    depth_options: ClassVar[Mapping[str, str]] = {"layers": "num_layers"}

    def __init__(self, depth: int = 200) -> None:
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(depth)])
        self.pooler = nn.Linear(2, 3, bias=False)
        self.matching = nn.Linear(1, 2)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        raise NotImplementedError

    def forward(self, encoding: Encoding) -> BackboneOutput:
        raise NotImplementedError

    def matching_head(self) -> nn.Module:
        return self.matching


MATCHING = ("matching.weight", "matching.bias")


def toy_tensors(depth: int = 200, **changes: Tensor | None) -> dict[str, Tensor]:
    """Weights that fit; ``None`` leaves one out."""
    tensors: dict[str, Tensor | None] = {f"layers.{n}": torch.full((1,), float(n)) for n in range(depth)}
    tensors["pooler.weight"] = torch.ones(3, 2)
    tensors.update({name.replace("__", "."): tensor for name, tensor in changes.items()})
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def translate(content: dict[str, Any]) -> dict[str, Any]:
    if "net" not in content:
        raise CheckpointError("not a toy checkpoint: no 'net'")
    return dict(content["net"])


def answers_of(content: dict[str, Any]) -> dict[str, Any]:
    return {"answer_head": {"answers": content["answers"]}} if "answers" in content else {}


def translate_nothing(content: dict[str, Any]) -> dict[str, Any]:
    return {}


def translate_row_and_layer(content: dict[str, Any]) -> dict[str, Any]:
    return {"row": content["table"][1], "w": content["net.0.weight"]}


TOY = WeightFormat(name="toy", backbone="toy-backbone", summary="files of toys", translator="toy_weights:translate")
