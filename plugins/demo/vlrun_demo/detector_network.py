"""The network of the demo's detector: proposals and regions, as in R-CNN, in a few layers for this world alone.

A convolutional map proposes boxes; each box is cut out of the picture, at one size, and becomes one vector; what is in
the box is read off that vector. Shapes: H x W places of the map, A anchors, N boxes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun.blocks.proposals import clip, decode, grid, nms
from vlrun_demo.regions import FEATURE_SIZE
from vlrun_demo.scene import BACKGROUNDS, COLOURS, KINDS, PATTERNS, SIZES

STRIDE = 8
"""Pixels of the input per place of the map."""

WORDS = {
    "kind": 1 + len(KINDS),  # the first is none of them
    "colour": len(COLOURS),
    "pattern": len(PATTERNS),
    "size": len(SIZES),
    "background": len(BACKGROUNDS),
}
"""What is read off a region, and how many words each has."""

_ANCHORS = (34.0, 61.0, 100.0)  # sides of small, medium and large things, in pixels of the input
_CHANNELS = 48
_CUT, _MARGIN = 32, 0.1  # pixels along a side of a region, with a little of what is around it
_CANDIDATES, _OVERLAP = 400, 0.5  # things cover a tenth of each other at most


class DemoNetwork(nn.Module):
    """Map, proposals and regions."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Sequential(
            _layer(3, 16, 5, stride=2),
            _layer(16, 32, 3, stride=2),
            _layer(32, _CHANNELS, 3, stride=2),
            _layer(_CHANNELS, _CHANNELS, 3, dilation=2),
            _layer(_CHANNELS, _CHANNELS, 3, dilation=2),
            _layer(_CHANNELS, _CHANNELS, 3, dilation=2),
        )
        self.objectness = nn.Conv2d(_CHANNELS, len(_ANCHORS), 1)
        nn.init.constant_(self.objectness.bias, -4.0)  # things are rare
        self.deltas = nn.Conv2d(_CHANNELS, 4 * len(_ANCHORS), 1)
        self.look = nn.Sequential(  # no normalisation: it would take away what a region has everywhere, its colours
            *(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 48, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(48, 64, 3, 2, 1), nn.ReLU()),
            nn.Flatten(),
        )
        self.region = nn.Linear(64 * (_CUT // 8) ** 2 + 2, FEATURE_SIZE)
        self.words = nn.ModuleDict({name: nn.Linear(FEATURE_SIZE, size) for name, size in WORDS.items()})
        self.refine = nn.Linear(FEATURE_SIZE, 4)
        self.register_buffer("loudness", torch.ones(()))

    def anchors(self, height: int, width: int) -> Tensor:
        """(H * W * A, 4) boxes that proposals start from."""
        half = torch.tensor(_ANCHORS)[:, None] / 2
        return grid(torch.cat([-half, -half, half, half], dim=1), height, width, STRIDE)

    def proposals(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, height, width) -> (M, 4) anchors, (M,) logits of a thing being there, (M, 4) deltas; M = H * W * A."""
        features = self.map(pixels)
        logits, deltas = self.objectness(features)[0], self.deltas(features)[0]
        anchors = self.anchors(*features.shape[2:])
        return anchors, logits.permute(1, 2, 0).flatten(), deltas.permute(1, 2, 0).reshape(-1, 4)

    def boxes(self, anchors: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int], limit: int) -> Tensor:
        """The (N, 4) boxes, at most ``limit``, that survive suppression, best first; ``size`` is (height, width)."""
        scores, best = (part[:_CANDIDATES] for part in logits.sort(descending=True, stable=True))
        boxes = clip(decode(anchors[best], deltas[best], inclusive=False), *size, inclusive=False)
        real = (boxes[:, 2:] - boxes[:, :2] >= STRIDE).all(dim=1)
        boxes, scores = boxes[real], scores[real]
        return boxes[nms(boxes, scores, _OVERLAP, limit, inclusive=False)]

    def vectors(self, pixels: Tensor, boxes: Tensor) -> Tensor:
        """(1, 3, height, width) and (N, 4) boxes in it -> (N, FEATURE_SIZE), not negative."""
        height, width = pixels.shape[2:]
        steps = torch.linspace(-_MARGIN, 1 + _MARGIN, _CUT)
        points = boxes[:, None, :2] + steps[:, None] * (boxes[:, None, 2:] - boxes[:, None, :2])  # (N, steps, xy)
        places = points * 2 / torch.tensor([width, height]) - 1
        x = places[:, None, :, 0].expand(-1, _CUT, -1)
        y = places[:, :, None, 1].expand(-1, -1, _CUT)
        where = torch.stack([x, y], dim=-1).reshape(1, -1, _CUT, 2)
        cut = F.grid_sample(pixels, where, padding_mode="border", align_corners=False)[0]  # (3, N * steps, steps)
        seen = self.look(cut.unflatten(1, (len(boxes), _CUT)).transpose(0, 1))
        sides = ((boxes[:, 2:] - boxes[:, :2]) / _ANCHORS[1]).log()  # all were cut out at one size
        return F.relu(self.region(torch.cat([seen, sides], dim=1)))


def _layer(width_in: int, width_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2 * dilation, dilation, bias=False),
        nn.GroupNorm(8, width_out),
        nn.ReLU(),
    )
