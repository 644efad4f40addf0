"""Boxes while they are detected: from anchors to proposals and through suppression, without loops over boxes. Torch.

``inclusive`` boxes end on their last pixel, as in Caffe: a side is ``x2 - x1 + 1`` long. Others end behind it.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

MOST_GROWTH = math.log(1000 / 16)
"""How much the logarithm of a side may grow at most while a box is decoded."""

_BLOCK = 512  # boxes that are compared with each other at once


def grid(anchors: Tensor, height: int, width: int, stride: int) -> Tensor:
    """``anchors`` at each place of a map: (height * width * A, 4), by row, column, anchor."""
    y, x = (torch.arange(size, device=anchors.device, dtype=anchors.dtype) * stride for size in (height, width))
    shifts = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).repeat(1, 1, 2)
    return (shifts[:, :, None] + anchors).reshape(-1, 4)


def decode(boxes: Tensor, deltas: Tensor, *, inclusive: bool) -> Tensor:
    """The (N, 4) boxes that (N, 4) ``deltas`` make of ``boxes``."""
    sides = boxes[:, 2:] - boxes[:, :2] + int(inclusive)
    centres = boxes[:, :2] + 0.5 * sides
    centres = deltas[:, :2] * sides + centres
    half = 0.5 * (deltas[:, 2:].clamp(max=MOST_GROWTH).exp() * sides)
    return torch.cat([centres - half, centres + half], dim=1)


def clip(boxes: Tensor, height: int, width: int, *, inclusive: bool) -> Tensor:
    """``boxes`` (..., 4) cut at the border of a picture."""
    most = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device) - int(inclusive)
    return torch.minimum(boxes.clamp(min=0), most)


def overlaps(first: Tensor, second: Tensor, *, inclusive: bool) -> Tensor:
    """Intersection over union of (M, 4) with (N, 4) boxes: (M, N)."""
    corner = torch.maximum(first[:, None, :2], second[:, :2])
    shared = (torch.minimum(first[:, None, 2:], second[:, 2:]) - corner + int(inclusive)).clamp(min=0).prod(dim=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + int(inclusive)).prod(dim=-1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def too_close(first: Tensor, second: Tensor, threshold: float, *, inclusive: bool) -> Tensor:
    """(M, N) bool: which of ``second`` a better one of ``first`` suppresses.

    The originals compare float32 overlaps with a float64 threshold; so does this, whatever torch makes of a scalar.
    Exactly at the threshold the inclusive rule suppresses and the other does not.
    """
    nearest = torch.tensor(threshold, dtype=torch.float32).item()
    found = overlaps(first, second, inclusive=inclusive)
    at_threshold = nearest > threshold or (nearest == threshold and inclusive)
    return found >= nearest if at_threshold else found > nearest


def greedily_kept(suppresses: Tensor) -> Tensor:
    """(..., N) bool: who stays when each one, best first, removes those behind it that it suppresses.

    Args:
        suppresses: (..., N, N) bool, [i, j] True where i would remove j; only i < j counts.

    Each round decides at least one more, in every chain at once; a handful of rounds settle hundreds.
    """
    edges = suppresses.triu(diagonal=1).to(torch.float32)
    kept = torch.ones(edges.shape[:-1], dtype=torch.float32, device=edges.device)
    while True:
        now = ((kept[..., None, :] @ edges).squeeze(-2) == 0).to(torch.float32)
        if torch.equal(now, kept):
            return kept.bool()
        kept = now


def nms(boxes: Tensor, scores: Tensor, threshold: float, limit: int, *, inclusive: bool) -> Tensor:
    """Indices of the boxes that survive suppression, best first, at most ``limit``; of equals the earlier wins."""
    if boxes.is_cuda and (theirs := torchvision_operators()) is not None:
        last_pixel = torch.tensor([0, 0, inclusive, inclusive], dtype=boxes.dtype, device=boxes.device)
        indices: Tensor = theirs.nms(boxes + last_pixel, scores, threshold)[:limit]
        return indices
    order = scores.sort(descending=True, stable=True).indices
    kept = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        if len(kept):
            block = block[~too_close(boxes[kept], boxes[block], threshold, inclusive=inclusive).any(dim=0)]
        among = too_close(boxes[block], boxes[block], threshold, inclusive=inclusive)
        kept = torch.cat([kept, block[greedily_kept(among)]])[:limit]
        if len(kept) == limit:
            break
    return kept


@cache
def torchvision_operators() -> Any:
    """``torchvision.ops`` where it can be imported, else None; it needs the torch that it was built for."""
    try:
        return import_module("torchvision.ops")
    except (ImportError, RuntimeError):
        return None
