"""Regions and a backbone for tests: small, and nothing has to be read from disk."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from vlrun.interfaces.backbone import Backbone, PairEncoder
from vlrun.interfaces.examples import Pair, RegionBatch
from vlrun.interfaces.pictures import PictureShape
from vlrun.interfaces.tensors import BackboneOutput, Encoding

_NUM_WORDS = 97


def make_regions(
    image_ids: Sequence[str], feature_size: int, num_regions: int = 5, seed: int = 0, num_classes: int = 0
) -> RegionBatch:
    """Makes random region features with boxes inside 640 x 480 images; about half of the images have one region less.

    The regions of an image depend only on its id and the seed, so an id may be asked for again.

    Args:
        num_classes: of the detector, whose classes and scores the regions have; 0: they have none.
    """
    features = np.zeros((len(image_ids), num_regions, feature_size), np.float16)
    boxes = np.zeros((len(image_ids), num_regions, 4), np.float32)
    mask = np.zeros((len(image_ids), num_regions), bool)
    for row, image_id in enumerate(image_ids):
        rng = np.random.default_rng([seed, *image_id.encode()])
        count = num_regions - sum(image_id.encode()) % 2
        corner = rng.uniform(0, (400, 300), (count, 2))
        features[row, :count] = rng.normal(size=(count, feature_size))
        boxes[row, :count] = np.concatenate([corner, corner + rng.uniform(20, 150, (count, 2))], axis=1)
        mask[row, :count] = True
    sizes = np.tile(np.array([[480.0, 640.0]], np.float32), (len(image_ids), 1))
    regions = RegionBatch(tuple(image_ids), features, boxes, mask, sizes)
    if not num_classes:
        return regions
    drawn = np.abs(features[..., 0].astype(np.float32))
    return replace(regions, class_ids=(1000 * drawn).astype(np.int32) % num_classes, class_scores=drawn / (1 + drawn))


def make_pictures(image_ids: Sequence[str], shape: PictureShape) -> RegionBatch:
    """Makes random pictures of 640 x 480 and of 480 x 480 pixels, as a backbone gets them; the same for the same id."""
    sizes = [(480, 640 if sum(image_id.encode()) % 2 else 480) for image_id in image_ids]
    scaled = [(shape.shorter, shape.shorter) if shape.crop else shape.scaled(*size) for size in sizes]
    pixels = np.zeros((len(image_ids), *np.max(scaled, axis=0), 3), np.uint8)
    for row, (image_id, (height, width)) in enumerate(zip(image_ids, scaled, strict=True)):
        rng = np.random.default_rng([*image_id.encode()])
        pixels[row, :height, :width] = rng.integers(0, 256, (height, width, 3))
    boxes = np.array([[[0, 0, width, height]] for height, width in sizes], np.float32)
    count = len(image_ids)
    return RegionBatch(
        tuple(image_ids),
        np.zeros((count, 1, 0), np.float32),
        boxes,
        np.ones((count, 1), bool),
        np.array(sizes, np.float32),
        pixels=pixels,
        pixel_sizes=np.array(scaled, np.int64),
    )


class StubBackbone(Backbone):
    """A small backbone for the tests of tasks: words and regions matter, and nothing has to be read from disk."""

    def __init__(self, hidden_size: int = 16, region_feature_size: int = 8) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.words = nn.Embedding(_NUM_WORDS, hidden_size)
        self.regions = nn.Linear(region_feature_size + 4, hidden_size)
        self.match = nn.Linear(hidden_size, 2)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return partial(_hashed_words, max_text_tokens=max_text_tokens)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """The mean of the words times every region: text (P, L, H), regions (P, R, H), pooled (P, H)."""
        text = self.words(encoding.token_ids) * encoding.text_mask[..., None]
        sentence = text.sum(1) / encoding.text_mask.sum(1, keepdim=True)
        features = torch.cat([encoding.region_features.to(text.dtype), encoding.boxes], -1)
        regions = torch.tanh(self.regions(features) * sentence[:, None]) * encoding.region_mask[..., None]
        pooled = regions.sum(1) / encoding.region_mask.sum(1, keepdim=True)
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return self.match


def _hashed_words(pairs: Sequence[Pair], regions: RegionBatch, max_text_tokens: int) -> Encoding:
    rows = [torch.tensor([zlib.crc32(word.encode()) % _NUM_WORDS for word in pair.text.split()]) for pair in pairs]
    rows = [row[:max_text_tokens] if len(row) else torch.zeros(1, dtype=torch.int64) for row in rows]
    return Encoding(
        token_ids=nn.utils.rnn.pad_sequence(rows, batch_first=True),
        text_mask=nn.utils.rnn.pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True),
        region_features=torch.from_numpy(regions.features),
        boxes=torch.from_numpy(regions.boxes / np.tile(regions.sizes[:, ::-1], 2)[:, None]),
        region_mask=torch.from_numpy(regions.mask),
    )
