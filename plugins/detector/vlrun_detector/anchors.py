"""Anchors: the boxes that the region proposals start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)  # height : width
CAFFE_SCALES = (4, 8, 16, 32)
HF_SIZES = (64, 128, 256, 512)
_BASE = 16
_PIXEL = (0.0, 0.0, 1.0, 1.0)


def caffe_anchors(scales: Sequence[int] = CAFFE_SCALES) -> Tensor:
    """The 12 anchors of the Caffe original, as inclusive boxes: ratio by ratio, whole pixels, centred at 7.5."""
    centre = (_BASE - 1) / 2
    boxes = []
    for ratio in RATIOS:
        wide = round((_BASE**2 / ratio) ** 0.5)
        tall = round(wide * ratio)
        for scale in scales:
            x, y = (wide * scale - 1) / 2, (tall * scale - 1) / 2
            boxes.append([centre - x, centre - y, centre + x, centre + y])
    return torch.tensor(boxes)


def hf_anchors(sizes: Sequence[int] = HF_SIZES) -> Tensor:
    """The 12 anchors that the Hugging Face code generates, not inclusive: size by size, centred at 0."""
    boxes = []
    for size in sizes:
        for ratio in RATIOS:
            wide = size / ratio**0.5
            tall = ratio * wide
            boxes.append([-wide / 2, -tall / 2, wide / 2, tall / 2])
    return torch.tensor(boxes)


def to_inclusive(boxes: Tensor) -> Tensor:
    """Boxes that ended behind their last pixel, ending on it."""
    return boxes - boxes.new_tensor(_PIXEL)


def from_inclusive(boxes: Tensor) -> Tensor:
    """The opposite of ``to_inclusive``."""
    return boxes + boxes.new_tensor(_PIXEL)


def recognised(anchors: Tensor) -> tuple[str, Tensor] | None:
    """What inclusive anchors of a checkpoint are, and those to use in their place; None for strange ones.

    ``caffe``: those of the original. ``caffe, a pixel short``: those of the original, taken by a file that does not
    count the last pixel; the network learned with the longer ones, so the pixel is put back. ``generated``: those that
    the Hugging Face code makes.
    """
    known = {
        "caffe": (caffe_anchors(), anchors),
        "caffe, a pixel short": (to_inclusive(caffe_anchors()), from_inclusive(anchors)),
        "generated": (to_inclusive(hf_anchors()), anchors),
    }
    for name, (boxes, used) in known.items():
        if _same_set(anchors, boxes):
            return name, used
    return None


def _same_set(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    distances = (first.cpu()[:, None] - second).abs().amax(dim=-1)
    return bool((distances.amin(dim=1) < 0.01).all() and (distances.amin(dim=0) < 0.01).all())
