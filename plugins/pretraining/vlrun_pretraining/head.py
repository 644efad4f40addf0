"""The layers that pre-training puts on a backbone. P pairs, L tokens, R regions, H hidden size, V vocabulary size, D
width of the region features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput
from vlrun.blocks.heads import NORM_EPSILON, init_layers


@dataclass(frozen=True)
class Undecoded:
    """States before their last, wide layer, and that layer: only the places that were masked need to go through it.

    For a batch of 256 captions the scores of all tokens over BERT's vocabulary would take 600 MB.

    Attributes:
        states: (P, N, H).
        weight, bias: (C, H), (C,) of the last layer.
    """

    states: Tensor
    weight: Tensor
    bias: Tensor

    def at(self, places: Tensor) -> Tensor:
        """The decoded states (K, C) of the K places where ``places`` (P, N) is True, in order."""
        return nn.functional.linear(self.states[places], self.weight, self.bias)


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


class Decoder(nn.Module):
    """BERT's transform (linear, GELU, layer norm) and a last layer, left to whoever knows where it is needed.

    The last layer is not tied to the word embeddings, as LXMERT's is: backbones do not have to show theirs.
    """

    def __init__(self, hidden_size: int, num_outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        self.decoder = nn.Linear(hidden_size, num_outputs)
        init_layers(self, hidden_size)

    def forward(self, states: Tensor) -> Undecoded:
        """Transforms states (P, N, H), to be decoded to C outputs where they are wanted."""
        states = self.layer_norm(nn.functional.gelu(self.dense(states)))
        return Undecoded(states, self.decoder.weight, self.decoder.bias)


class PretrainingHead(nn.Module):
    """Matching with the backbone's own head, which so becomes part of its weights; words and regions with new ones.

    Each decoder sees the states of its own modality, in which the network has mixed the other one.
    """

    def __init__(self, backbone: Backbone, vocabulary_size: int, feature_width: int) -> None:
        super().__init__()
        self.matching = backbone.matching_head()
        self.words = Decoder(backbone.hidden_size, vocabulary_size)
        self.regions = Decoder(backbone.hidden_size, feature_width)

    def forward(self, output: BackboneOutput) -> PretrainingOutput:
        """States of P pairs -> matching logits (P, 2), transformed states (P, L, H) and (P, R, H)."""
        return PretrainingOutput(self.matching(output.pooled), self.words(output.text), self.regions(output.regions))
