"""Suppression of whole classes, and pooling, without loops over boxes or classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun.blocks.proposals import greedily_kept, torchvision_operators


def best_surviving(close: Tensor, probabilities: Tensor, lowest: float) -> Tensor:
    """(N,) for each box its largest probability in a class in which it survives suppression, or 0.

    Args:
        close: (N, N) bool, which boxes suppress each other.
        probabilities: (N, C); classes suppress on their own.
        lowest: smaller probabilities are not looked at. They can suppress nothing larger, so what is returned is exact
            wherever it is at least this.
    """
    looked_at = probabilities >= lowest
    classes = looked_at.any(dim=0).nonzero().squeeze(1)
    best = probabilities.new_zeros(len(probabilities))
    if not len(classes):
        return best
    most = int(looked_at.sum(dim=0).max())
    at_once = max(1, (64 << 20) // (most * most))  # classes whose pairs fit into 256 MiB of float32
    for some in classes.split(at_once):
        values = probabilities[:, some].T.where(looked_at[:, some].T, -1)
        values, order = (part[:, :most] for part in values.sort(dim=1, descending=True, stable=True))
        present = values >= 0
        edges = close[order[:, :, None], order[:, None, :]] & present[:, :, None] & present[:, None, :]
        survivors = values.where(greedily_kept(edges) & present, 0)
        best = best.scatter_reduce(0, order.flatten(), survivors.flatten(), "amax")
    return best


class RegionPooling:
    """Max pooling of regions to a grid of bins, rounded as in Caffe; its memory is kept from picture to picture."""

    def __init__(self, bins: int, stride: int) -> None:
        self._bins, self._scale = bins, 1 / stride
        self._memory = torch.empty(0)

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        """(1, C, H, W) features and (N, 4) boxes in pixels -> (N, C, bins, bins), channels last.

        What is returned is overwritten by the next call.
        """
        # theirs knows no bfloat16
        in_theirs = features.is_cuda and features.dtype == torch.float32
        if in_theirs and (theirs := torchvision_operators()) is not None:
            pooled: Tensor = theirs.roi_pool(features, [boxes], self._bins, self._scale)
            return pooled.contiguous(memory_format=torch.channels_last)
        channels, height, width = features.shape[1:]
        tops, bottoms = self._edges(boxes[:, 1], boxes[:, 3], height)
        lefts, rights = self._edges(boxes[:, 0], boxes[:, 2], width)
        tall, wide = bottoms - tops, rights - lefts  # (N, bins)
        starts = (tops[:, :, None] * width + lefts[:, None, :]).flatten()
        # Bins of one height and width are windows of the same pooled map: pooled once, then looked up.
        shapes = (tall[:, :, None].clamp(min=0) * (width + 1) + wide[:, None, :].clamp(min=0)).flatten()
        shapes = shapes.where(((tall[:, :, None] > 0) & (wide[:, None, :] > 0)).flatten(), 0)
        out = self._room(len(boxes) * self._bins**2, channels, features)
        by_shape = shapes.argsort()
        kinds, counts = shapes[by_shape].unique_consecutive(return_counts=True)
        for kind, rows in zip(kinds.tolist(), by_shape.split(counts.tolist()), strict=True):
            if not kind:
                out[rows] = 0
                continue
            pooled = F.max_pool2d(features, divmod(kind, width + 1), stride=1)
            line = pooled.shape[3]
            table = pooled.permute(0, 2, 3, 1).reshape(-1, channels)
            at = starts[rows]
            out[rows] = table[at // width * line + at % width]
        return out.view(len(boxes), self._bins, self._bins, channels).permute(0, 3, 1, 2)

    def _edges(self, first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """(N, bins) where the bins of N regions begin and end along one side, cut at the map."""
        begin, end = (_half_away(value * self._scale) for value in (first, last))
        length = (end - begin + 1).clamp(min=1)[:, None] / self._bins
        numbers = torch.arange(self._bins, device=first.device, dtype=first.dtype)
        start = (numbers * length).floor() + begin[:, None]
        stop = ((numbers + 1) * length).ceil() + begin[:, None]
        return start.clamp(0, size).long(), stop.clamp(0, size).long()

    def _room(self, rows: int, channels: int, like: Tensor) -> Tensor:
        fits = (self._memory.dtype, self._memory.device) == (like.dtype, like.device)
        if not fits or self._memory.numel() < rows * channels:
            self._memory = torch.empty(rows * channels, dtype=like.dtype, device=like.device)
        return self._memory[: rows * channels].view(rows, channels)


def _half_away(values: Tensor) -> Tensor:
    """Rounded, with halves away from zero, as C does; torch rounds them to even."""
    whole = values.abs().floor()
    return values.sign() * (whole + (values.abs() - whole >= 0.5))
