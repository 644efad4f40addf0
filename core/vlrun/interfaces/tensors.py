"""The tensors that pass between loader, backbone, head and loss. P pairs, L tokens, R regions, H hidden size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

_Record = TypeVar("_Record", bound="_Movable")


class _Movable:
    """Moves every tensor of a frozen dataclass at once."""

    def to(self: _Record, device: torch.device | str) -> _Record:
        """The same record with its tensors on ``device``; Apple's GPUs, which lack float64, get float32."""
        moved: _Record = map_nested(self, lambda tensor: _moved(tensor, torch.device(device)))
        return moved

    def pin_memory(self: _Record) -> _Record:
        """The same record in pinned memory, from which an accelerator copies while it computes."""
        pinned: _Record = map_nested(self, lambda tensor: tensor.pin_memory())
        return pinned

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory of every tensor until ``stream`` has done what it was given so far."""

        def record(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        map_nested(self, record)


@dataclass(frozen=True)
class Encoding(_Movable):
    """What a backbone's ``forward`` consumes, for P pairs.

    Attributes:
        token_ids: (P, L) int64.
        text_mask: (P, L) bool, True for a real token.
        region_features: (P, R, D), float16 or float32 as stored, or bytes of pictures; cast on the device.
        boxes: (P, R, B) float32, the B box features that this backbone wants, no longer pixels.
        region_mask: (P, R) bool, True for a real region.
        position_ids: (P, L) int64, or None where positions simply count from 0.
        full_texts: whether ``text_mask`` is known to be all True, so that attention needs no mask. The pair encoder
            says so, for reading a mask on a device makes it wait; False: it is not known.
        full_regions: the same of ``region_mask``.
        pixels: (P, 3, H, W) uint8, whole pictures, for backbones that read such; scaled to numbers around 0 on the
            device. One that cuts pictures into patches may treat these as regions instead.
        tag_ids: (P, T) int64, tokens of object tags, which belong to the image as regions do; None for backbones that
            read none.
        tag_mask: (P, T) bool, True for a real token of them; None likewise.
    """

    token_ids: Tensor
    text_mask: Tensor
    region_features: Tensor
    boxes: Tensor
    region_mask: Tensor
    position_ids: Tensor | None = None
    full_texts: bool = False
    full_regions: bool = False
    pixels: Tensor | None = None
    tag_ids: Tensor | None = None
    tag_mask: Tensor | None = None


@dataclass(frozen=True)
class BackboneOutput(_Movable):
    """Hidden states of P pairs.

    Attributes:
        text: (P, L, H) final hidden states of the tokens.
        regions: (P, R, H) final hidden states of the regions.
        pooled: (P, H) pooled output.
        text_mask: (P, L) bool, as in the encoding.
        region_mask: (P, R) bool, as in the encoding.
        vectors: of two towers the vectors of the texts and of the images, (P, H) each; else None.

    For a head that reads the pooled output alone, there are no tokens and no regions: L and R are 0.
    """

    text: Tensor
    regions: Tensor
    pooled: Tensor
    text_mask: Tensor
    region_mask: Tensor
    vectors: tuple[Tensor, Tensor] | None = None


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


def on_cpu(outputs: Any) -> Any:
    """Head outputs (tensor, tuple, mapping, dataclass) with every tensor in float32 or wider, on the CPU."""
    return map_nested(outputs, lambda tensor: full_precision(tensor).detach().cpu())


def in_full_precision(outputs: Any) -> Any:
    """The same outputs with half-precision tensors cast to float32, in which losses are computed."""
    return map_nested(outputs, full_precision)


def full_precision(tensor: Tensor) -> Tensor:
    """A half-precision tensor as float32; any other unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "mps" and tensor.dtype == torch.float64:
        tensor = tensor.float()
    # only what reads a copy from pinned memory to an accelerator waits for it; others would be read too early
    return tensor.to(device, non_blocking=device.type != "cpu" and tensor.is_pinned())


def map_nested(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Outputs of a head (tensor, tuple, list, mapping, dataclass) with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_nested(item, change) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [map_nested(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_nested(item, change) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: map_nested(getattr(value, field.name), change) for field in fields(value)})
    return value
