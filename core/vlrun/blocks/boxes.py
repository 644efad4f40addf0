"""Boxes in pixels: overlap under the rules that papers use, box deltas, clipping.

The last dimension has 4 numbers and leading ones broadcast; all is computed in float64, except in ``encode_deltas``.
Corners ``xyxy`` are (x1, y1, x2, y2); annotations are ``xywh`` with corners (x, y, x + w, y + h), whatever the overlap
rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.float64]

IouRule: TypeAlias = Literal["plus_one", "inclusive", "continuous"]
"""How pixels are counted; the rules differ by a few hundredths for small boxes.

``plus_one``: widths are x2 - x1 + 1. ROSITA, VOLTA, ViLBERT. Annotations, whose corner is x + w already, grow by one
    pixel as well. Boxes of zero area are one pixel wide and high, so two equal ones have IoU 1.
``inclusive``: the last pixel of (x, y, w, h) is x + w - 1; an overlap of one pixel or less counts as none.
    The refer API and UNITER. Two boxes of zero area would be 0 / 0; we say 0: nothing overlaps nothing.
``continuous``: plain areas, as in torchvision. Two boxes of zero area have IoU 0.
"""

IOU_RULES: tuple[IouRule, ...] = ("plus_one", "inclusive", "continuous")

DELTA_STDS = (0.1, 0.1, 0.2, 0.2)
"""Box deltas are divided by these; their means are 0. ROSITA, and Fast R-CNN before it."""


def xywh_to_xyxy(boxes: ArrayLike) -> Floats:
    """Corner and size (..., 4) to two corners, in float64."""
    boxes = _float64(boxes)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: ArrayLike) -> Floats:
    """Two corners (..., 4) to corner and size, in float64."""
    boxes = _float64(boxes)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def iou(a: ArrayLike, b: ArrayLike, rule: IouRule) -> Floats:
    """Intersection over union of ``a`` (..., 4) with ``b`` (..., 4), element by element, both xyxy.

    Returns:
        Values in [0, 1]; 0 where a box has no area to share, also under a rule that would divide 0 by 0.
    """
    a, b = _float64(a), _float64(b)
    if rule not in IOU_RULES:
        raise ValueError(f"unknown IoU rule '{rule}' (known: {', '.join(IOU_RULES)})")
    extra = 1.0 if rule == "plus_one" else 0.0
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + extra
    if rule == "inclusive":  # corners x + w - 1 on both sides, compared strictly: a shared single pixel is nothing
        overlap = np.where(overlap > 1.0, overlap, 0.0)
    shared = np.where((overlap > 0).all(axis=-1), overlap.prod(axis=-1), 0.0)
    union = _area(a, extra) + _area(b, extra) - shared
    values: Floats = np.divide(shared, union, out=np.zeros_like(union), where=(shared > 0) & (union > 0))
    return values


def pairwise_iou(a: ArrayLike, b: ArrayLike, rule: IouRule) -> Floats:
    """IoU of every box in ``a`` (N, 4) with every box in ``b`` (M, 4), both xyxy -> (N, M)."""
    return iou(_float64(a)[:, None], _float64(b)[None], rule)


def encode_deltas(boxes: ArrayLike, targets: ArrayLike, stds: Sequence[float] = DELTA_STDS) -> Floats:
    """What has to be predicted at ``boxes`` (..., 4) to reach ``targets`` (..., 4): (dx, dy, dw, dh), divided by stds.

    Both are xyxy and measured with the +1 width of ROSITA: w = x2 - x1 + 1, centre x1 + w / 2. Boxes that are both
    float32 are compared in float32, which makes the targets of ROSITA's loader to the last bit.
    """
    size, centre = _size_and_centre(_floats(boxes))
    target_size, target_centre = _size_and_centre(_floats(targets))
    deltas = np.concatenate([(target_centre - centre) / size, np.log(target_size / size)], axis=-1)
    normalised: Floats = deltas / np.asarray(stds)
    return normalised


def decode_deltas(boxes: ArrayLike, deltas: ArrayLike, stds: Sequence[float] = DELTA_STDS) -> Floats:
    """The boxes that ``deltas`` (..., 4) mean at ``boxes`` (..., 4), both xyxy.

    Not the inverse of ``encode_deltas``: corners are centre -+ size / 2 with no - 1, so zero deltas return x2 + 1 and
    y2 + 1. ROSITA's scores were computed this way.
    """
    size, centre = _size_and_centre(_float64(boxes))
    steps: Floats = _float64(deltas) * np.asarray(stds)
    centre = centre + steps[..., :2] * size
    with np.errstate(over="ignore"):  # an absurd size becomes infinite, and clipping makes it the whole image
        half = np.exp(steps[..., 2:]) * size / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def clip_to_image(boxes: ArrayLike, heights: ArrayLike, widths: ArrayLike) -> Floats:
    """xyxy ``boxes`` (..., 4) with x in [0, width - 1] and y in [0, height - 1]; sizes have the leading shape."""
    limits = np.stack([_float64(widths), _float64(heights)] * 2, axis=-1) - 1.0
    clipped: Floats = np.clip(_float64(boxes), 0.0, limits)
    return clipped


def _float64(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _floats(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _area(boxes: Floats, extra: float) -> Any:
    return (boxes[..., 2:] - boxes[..., :2] + extra).prod(axis=-1)


def _size_and_centre(boxes: NDArray[Any]) -> tuple[Any, Any]:
    size = boxes[..., 2:] - boxes[..., :2] + 1.0
    return size, boxes[..., :2] + size / 2
