"""The pipeline of the Caffe original, whose features LXMERT and ROSITA were trained on: regions are proposals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlrun import DataError
from vlrun.blocks.proposals import clip, decode, grid, nms, too_close
from vlrun_detector.network import STRIDE, Network
from vlrun_detector.operators import best_surviving
from vlrun_detector.profile import MEAN_BGR, Found, Prepared, Profile, as_rows, split_objectness

SMALLEST = 16
"""Side of a proposal, in pixels of the picture, below which it is dropped."""

_LOWEST = (0.02, 0.002, 0.0)  # probabilities below which suppression is not computed, until enough regions are above


@dataclass(frozen=True)
class CaffeProfile(Profile):
    """Inclusive pixels, 600 / 1000, regions chosen by the best probability that survives suppression in its class."""

    name = "bua-caffe"

    short: int = 600
    long: int = 1000
    least: int = 36
    most: int = 36
    class_overlap: float = 0.3
    confidence: float = 0.2

    def describe(self) -> str:
        return (
            f"caffe profile, input {self.short}/{self.long} BGR, boxes are proposals, suppression per class at "
            f"{self.class_overlap:g}, confidence {self.confidence:g}"
        )

    def prepare(self, pixels: Tensor) -> Prepared:
        height, width = pixels.shape[:2]
        scale = self.short / min(height, width)
        if round(scale * max(height, width)) > self.long:
            scale = self.long / max(height, width)
        # Python rounds halves to even, as numpy and OpenCV's cvRound do
        size = [round(height * scale), round(width * scale)]
        if min(height, width) < SMALLEST or min(size) < SMALLEST:
            raise DataError(
                f"{width} x {height} pixels are too few or too narrow: a region has at least {SMALLEST} x {SMALLEST}"
            )
        values = pixels.permute(2, 0, 1).flip(0).float().sub_(torch.tensor(MEAN_BGR)[:, None, None])
        # with the factor itself, not the ratio of the sizes: that would shift the picture by up to half a pixel
        resized = torch.ops.aten.upsample_bilinear2d(values[None], size, False, scale, scale)
        return Prepared(resized, scale, scale)

    def propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, picture: Prepared) -> tuple[Tensor, Tensor]:
        start = grid(anchors, *logits.shape[2:], STRIDE)
        scores = torch.stack(split_objectness(logits)).softmax(dim=0)[1]
        boxes = decode(start, as_rows(deltas, 4), inclusive=True)
        boxes = clip(boxes, picture.height, picture.width, inclusive=True)
        large = (boxes[:, 2:] - boxes[:, :2] + 1 >= SMALLEST * picture.scale_y).all(dim=1)
        boxes, scores = boxes[large], scores[large]
        first = scores.sort(descending=True, stable=True).indices[: self.candidates]
        boxes, scores = boxes[first], scores[first]
        kept = nms(boxes, scores, self.proposal_overlap, self.proposals, inclusive=True)
        return boxes[kept], scores[kept]

    def choose(self, network: Network, boxes: Tensor, vectors: Tensor, picture: Prepared) -> Found:
        logits = network.class_logits(vectors)
        probabilities = logits.softmax(dim=1)[:, 1:]
        boxes = boxes / picture.scale_y
        keep = self.kept(boxes, probabilities)
        classes = logits[keep].argmax(dim=1)  # background too: the attribute head was trained so
        attributes = network.attribute_logits(vectors[keep], classes).softmax(dim=1)
        return self.chosen(keep, boxes, vectors, probabilities, attributes[:, 1:])

    def kept(self, boxes: Tensor, probabilities: Tensor) -> Tensor:
        """Which of N boxes, in pixels of the picture, with (N, C) probabilities of real classes, are regions."""
        close = too_close(boxes, boxes, self.class_overlap, inclusive=True)
        for lowest in _LOWEST:
            best = best_surviving(close, probabilities, min(lowest, self.confidence))
            if int((best >= lowest).sum()) >= self.least:
                break
        sure = (best >= self.confidence).nonzero().squeeze(1)
        if self.least <= len(sure) <= self.most:
            return sure
        number = self.least if len(sure) < self.least else self.most
        return best.sort(descending=True, stable=True).indices[:number]

    def chosen(self, keep: Tensor, boxes: Tensor, vectors: Tensor, probabilities: Tensor, attributes: Tensor) -> Found:
        """The regions ``keep``; ``attributes`` (R, attributes) are theirs alone, all else has a row per proposal."""
        scores, classes = probabilities[keep].max(dim=1)
        attribute_scores, attribute_ids = attributes.max(dim=1)
        return Found(keep, boxes[keep], vectors[keep], classes, scores, attribute_ids, attribute_scores)
