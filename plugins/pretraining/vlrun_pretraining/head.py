"""The layers that pre-training puts on a backbone. P pairs, L tokens, R regions, H hidden size, V vocabulary size, D
width of the region features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput
from vlrun.blocks.decoders import FEATURES, RegionHead, Undecoded, WordHead


@dataclass(frozen=True)
class Guesses:
    """What is left of the outputs for P pairs where they are only counted; small enough to leave the device.

    Attributes:
        matching: (P, 2) logits; class 1 means that caption and image match.
        right_words: (P,) int64, how many masked word pieces of each pair were guessed right.
    """

    matching: Tensor
    right_words: Tensor


@dataclass(frozen=True)
class PretrainingOutput:
    """Raw outputs for P pairs.

    Attributes:
        matching: (P, 2) logits; class 1 means that caption and image match.
        words: of the tokens, decodes to V logits.
        regions: of the regions, decodes to D features.
    """

    matching: Tensor
    words: Undecoded
    regions: Undecoded


class PretrainingHead(nn.Module):
    """Matching with the backbone's own head, which so becomes part of its weights; words and regions with new ones.

    Each decoder sees the states of its own modality, in which the network has mixed the other one. The decoder of words
    is tied to the word embeddings where the backbone offers them.
    """

    def __init__(self, backbone: Backbone, feature_width: int) -> None:
        super().__init__()
        self.matching = backbone.matching_head()
        self.words = WordHead.of(backbone)
        self.regions = RegionHead(backbone.hidden_size, {FEATURES: feature_width})

    def forward(self, output: BackboneOutput) -> PretrainingOutput:
        """States of P pairs -> matching logits (P, 2), transformed states (P, L, H) and (P, R, H)."""
        regions = self.regions(output.regions, output.pooled)
        return PretrainingOutput(self.matching(output.pooled), self.words(output.text), regions[FEATURES])
