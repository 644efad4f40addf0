"""The pipeline of Hugging Face's frcnn-vg: regressed boxes. The backbones of the papers have seen other features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun import DataError
from vlrun.blocks.proposals import clip, decode, grid, nms
from vlrun_detector import anchors as anchor_boxes
from vlrun_detector.network import STRIDE, Network
from vlrun_detector.profile import MEAN_BGR, Found, Prepared, Profile, as_rows, split_objectness

_SHORTEST = 16  # pixels of the input, one place of the map


@dataclass(frozen=True)
class HfProfile(Profile):
    """Boxes that end behind their last pixel, 800 / 1333, one suppression over the best class of each region.

    Attributes:
        overlaps: tried one after the other until ``least`` regions survive. Where the last leaves fewer, those are
            what there is; the original fails then, or repeats the boxes of another picture.
    """

    name = "hf-frcnn"

    short: int = 800
    long: int = 1333
    least: int = 36
    most: int = 36
    overlaps: tuple[float, ...] = (0.5, 0.6, 0.7)

    def describe(self) -> str:
        tried = "-".join(f"{overlap:g}" for overlap in self.overlaps)
        return f"hf profile, input {self.short}/{self.long} BGR, boxes are regressed, suppression at {tried}"

    def prepare(self, pixels: Tensor) -> Prepared:
        height, width = pixels.shape[:2]
        scale = self.short / min(height, width)
        new_height, new_width = (self.short, scale * width) if height < width else (scale * height, self.short)
        if max(new_height, new_width) > self.long:
            shrink = self.long / max(new_height, new_width)
            new_height, new_width = new_height * shrink, new_width * shrink
        size = (int(new_height + 0.5), int(new_width + 0.5))
        if min(size) < _SHORTEST:
            raise DataError(f"{width} x {height} pixels are too narrow: {size[1]} x {size[0]} would be left to look at")
        values = pixels.permute(2, 0, 1).flip(0).float()
        resized = F.interpolate(values[None], size, mode="bilinear", align_corners=False)
        resized = resized.sub_(torch.tensor(MEAN_BGR)[:, None, None])
        return Prepared(resized, size[0] / height, size[1] / width)

    def propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, picture: Prepared) -> tuple[Tensor, Tensor]:
        start = grid(anchor_boxes.from_inclusive(anchors), *logits.shape[2:], STRIDE)
        background, foreground = split_objectness(logits)
        ranked, first = (foreground - background).sort(descending=True, stable=True)
        ranked, first = ranked[: self.candidates], first[: self.candidates]
        boxes = decode(start[first], as_rows(deltas, 4)[first], inclusive=False)
        boxes = clip(boxes, picture.height, picture.width, inclusive=False)
        real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, ranked = boxes[real], ranked[real]
        kept = nms(boxes, ranked, self.proposal_overlap, self.proposals, inclusive=False)
        return boxes[kept], ranked[kept]

    def choose(self, network: Network, boxes: Tensor, vectors: Tensor, picture: Prepared) -> Found:
        logits = network.class_logits(vectors)
        scores, classes = logits.softmax(dim=1)[:, 1:].max(dim=1)
        boxes = decode(boxes, network.deltas_of(vectors, classes + 1), inclusive=False)
        boxes = clip(boxes, picture.height, picture.width, inclusive=False)
        keep = self.kept(boxes, scores)
        label = logits[keep].argmax(dim=1)  # background too: the attribute head was trained so
        attributes = network.attribute_logits(vectors[keep], label)[:, 1:].softmax(dim=1)
        attribute_scores, attribute_ids = attributes.max(dim=1)
        factors = boxes.new_tensor([1 / picture.scale_x, 1 / picture.scale_y]).repeat(2)
        return Found(
            keep, boxes[keep] * factors, vectors[keep], classes[keep], scores[keep], attribute_ids, attribute_scores
        )

    def kept(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Which of N boxes with N scores of their best class are regions, best first."""
        for overlap in self.overlaps:
            keep = nms(boxes, scores, overlap, self.most, inclusive=False)
            if len(keep) >= self.least:
                break
        return keep
