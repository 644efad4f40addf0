"""The backbone interface: a pre-trained encoder that turns text-image pairs into hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from vlrun.examples import Pair, RegionBatch
from vlrun.tensors import BackboneOutput, Encoding


class PairEncoder(Protocol):
    """Turns pairs and their region features into tensors. Picklable; runs in loader workers; draws nothing."""

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Row i of ``regions`` belongs to ``pairs[i]``; boxes arrive in pixels and leave as the backbone wants them."""
        ...


class Backbone(nn.Module, ABC):
    """A pre-trained encoder of text-image pairs.

    Attributes:
        hidden_size: H, the width of all hidden states.
        vocabulary_hash: identifies the tokeniser's vocabulary; stored in checkpoints, compared when they are loaded.
    """

    hidden_size: int
    vocabulary_hash: str = ""

    @abstractmethod
    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """The text and box pipeline of this backbone; texts are cut to ``max_text_tokens``, special tokens included."""

    @abstractmethod
    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs."""

    @abstractmethod
    def matching_head(self) -> nn.Module:
        """The image-text matching head: pooled (P, H) -> logits (P, 2); class 1 means that text and image match."""

    def weight_shapes(self) -> Mapping[str, Tensor]:
        """The tensors that imported weights must fill, by name; by default all of ``state_dict()``."""
        return self.state_dict()
