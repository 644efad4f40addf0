"""The tensors that pass between loader, backbone, head and loss. P pairs, L tokens, R regions, H hidden size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

_Record = TypeVar("_Record", bound="_Movable")


class _Movable:
    """Moves every tensor of a frozen dataclass at once."""

    def _map(self: _Record, change: Any) -> _Record:
        changed = {f.name: _apply(change, getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self: _Record, device: torch.device | str) -> _Record:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: _Record) -> _Record:
        return self._map(lambda tensor: tensor.pin_memory())


def _apply(change: Any, value: Any) -> Any:
    if isinstance(value, Tensor | _Movable):
        return value._map(change) if isinstance(value, _Movable) else change(value)
    if isinstance(value, Mapping):
        return {key: _apply(change, item) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class Encoding(_Movable):
    """What a backbone's ``forward`` consumes, for P pairs.

    Attributes:
        token_ids: (P, L) int64.
        text_mask: (P, L) bool, True for a real token.
        region_features: (P, R, D), float16 or float32 as stored; the backbone casts on the device.
        boxes: (P, R, B) float32, the box features that this backbone wants (ROSITA: 5, LXMERT: 4), no longer pixels.
        region_mask: (P, R) bool, True for a real region.
        position_ids: (P, L) int64, or None where positions simply count from 0.
    """

    token_ids: Tensor
    text_mask: Tensor
    region_features: Tensor
    boxes: Tensor
    region_mask: Tensor
    position_ids: Tensor | None = None


@dataclass(frozen=True)
class BackboneOutput(_Movable):
    """Hidden states of P pairs.

    Attributes:
        text: (P, L, H) final hidden states of the tokens.
        regions: (P, R, H) final hidden states of the regions.
        pooled: (P, H) pooled output.
        text_mask: (P, L) bool, as in the encoding.
        region_mask: (P, R) bool, as in the encoding.
    """

    text: Tensor
    regions: Tensor
    pooled: Tensor
    text_mask: Tensor
    region_mask: Tensor


@dataclass(frozen=True)
class Batch(_Movable):
    """Several examples, ready for the device.

    Attributes:
        ids: example ids, in order.
        encoding: their pairs; an example's pairs lie next to each other.
        targets: named tensors made by ``Task.collate``: ground truth, and what decoding a prediction needs.
    """

    ids: tuple[str, ...]
    encoding: Encoding
    targets: Mapping[str, Tensor]
