"""A backbone small enough to read at a glance: the mean of the word vectors, multiplied with every region."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from vlrun import Backbone, BackboneOutput, Encoding, Pair, PairEncoder, RegionBatch
from vlrun_own.config import BagOfWordsConfig

NUM_BUCKETS = 4096


def hashed_words(pairs: Sequence[Pair], regions: RegionBatch, max_text_tokens: int) -> Encoding:
    """Turns pairs into tensors: each word becomes the number of a bucket, so that no vocabulary is needed."""
    rows = [[zlib.crc32(word.encode()) % NUM_BUCKETS for word in pair.text.lower().split()] for pair in pairs]
    rows = [row[:max_text_tokens] or [0] for row in rows]
    length = max(map(len, rows))
    return Encoding(
        token_ids=torch.tensor([row + [0] * (length - len(row)) for row in rows]),
        text_mask=torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows]),
        region_features=torch.from_numpy(regions.features),
        boxes=torch.from_numpy(regions.boxes) / torch.from_numpy(regions.sizes).flip(-1).repeat(1, 2)[:, None],
        region_mask=torch.from_numpy(regions.mask),
    )


class BagOfWords(Backbone):
    """Multiplies each region with the mean word vector. Shapes: P pairs, L words, R regions, H hidden size."""

    optional_weights = ("match",)  # a file of weights may come from a run that had no use for the matching head

    def __init__(self, hidden_size: int, region_feature_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.words = nn.Embedding(NUM_BUCKETS, hidden_size)
        self.regions = nn.Sequential(nn.Linear(region_feature_size + 4, hidden_size), nn.GELU())
        self.fuse = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.LayerNorm(hidden_size))
        self.match = nn.Linear(hidden_size, 2)

    @classmethod
    def from_config(cls, config: BagOfWordsConfig) -> BagOfWords:
        """Builds the backbone that an experiment describes."""
        return cls(config.hidden_size, config.region_feature_size)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return partial(hashed_words, max_text_tokens=max_text_tokens)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), regions (P, R, H), pooled (P, H)."""
        features = encoding.region_features.to(self.words.weight.dtype)
        text = self.words(encoding.token_ids) * encoding.text_mask.unsqueeze(-1)
        sentence = text.sum(1) / encoding.text_mask.sum(1, keepdim=True)  # (P, H)
        regions = self.fuse(self.regions(torch.cat([features, encoding.boxes], -1)) * sentence.unsqueeze(1))
        pooled = (regions * encoding.region_mask[..., None]).sum(1) / encoding.region_mask.sum(1, keepdim=True)
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return self.match
