"""What the two pipelines share: the numbers that they differ in, and the steps of which each is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlrun_detector.network import Network

MEAN_BGR = (102.9801, 115.9465, 122.7717)


@dataclass(frozen=True)
class Prepared:
    """A picture as the network sees it.

    Attributes:
        pixels: (1, 3, H, W) float32, B, G, R, mean subtracted.
        scale_y, scale_x: size of the input over that of the picture.
    """

    pixels: Tensor
    scale_y: float
    scale_x: float

    @property
    def height(self) -> int:
        """Of the network's input, in pixels."""
        return self.pixels.shape[2]

    @property
    def width(self) -> int:
        """Of the network's input, in pixels."""
        return self.pixels.shape[3]


@dataclass(frozen=True)
class Found:
    """The chosen regions of a picture.

    Attributes:
        keep: (R,) which proposals they are.
        boxes: (R, 4) xyxy in pixels of the picture.
        features: (R, D).
        class_ids, attribute_ids: (R,), 0 for the first real one; class_scores, attribute_scores: (R,).
    """

    keep: Tensor
    boxes: Tensor
    features: Tensor
    class_ids: Tensor
    class_scores: Tensor
    attribute_ids: Tensor
    attribute_scores: Tensor


@dataclass(frozen=True)
class Profile(ABC):
    """One pipeline around the network.

    Attributes:
        short, long: side of the input that the shorter side gets, and the most that the longer one may have.
        candidates, proposals: boxes before and after the suppression of proposals, at most.
        proposal_overlap: above which a proposal suppresses another.
        least, most: regions that a picture gives.
    """

    name: ClassVar[str]
    """Of the features, by which a store is compared with what weights were trained on."""

    short: int
    long: int
    least: int
    most: int
    candidates: int = 6000
    proposals: int = 300
    proposal_overlap: float = 0.7

    @abstractmethod
    def prepare(self, pixels: Tensor) -> Prepared:
        """(H, W, 3) uint8 R, G, B -> the input of the network."""

    @abstractmethod
    def propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, picture: Prepared) -> tuple[Tensor, Tensor]:
        """(1, 2 A, H, W) logits, (1, 4 A, H, W) deltas and A inclusive anchors -> (N, 4) boxes and N scores."""

    @abstractmethod
    def choose(self, network: Network, boxes: Tensor, vectors: Tensor, picture: Prepared) -> Found:
        """N proposals and what is in them -> the regions that are kept."""

    @abstractmethod
    def describe(self) -> str:
        """What makes its features others than those of another pipeline, for the store."""

    def detect(self, network: Network, picture: Prepared, at_once: int) -> Found:
        """The regions of one picture; there may be none."""
        with torch.inference_mode():
            features = network.map(picture.pixels)
            boxes, _ = self.propose(*network.proposals(features), network.anchors, picture)
            vectors = network.regions(features, boxes, at_once)
            return self.choose(network, boxes, vectors, picture)


def as_rows(maps: Tensor, width: int) -> Tensor:
    """(1, A * width, H, W) -> (H * W * A, width), by row, column, anchor."""
    return maps[0].permute(1, 2, 0).reshape(-1, width)


def split_objectness(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 2 A, H, W) -> background and foreground, each (H * W * A,)."""
    background, foreground = logits.chunk(2, dim=1)
    return as_rows(background, 1).squeeze(1), as_rows(foreground, 1).squeeze(1)
