"""ROSITA for scoring many pairs: what ``Rosita.pooled_output`` gives, in fewer and larger products.

Keys, queries and values of the first layer depend on one side alone, so they belong to the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlrun import Backbone, Encoding, full_precision
from vlrun.blocks.pair_scoring import (
    FeedForward,
    FirstAttention,
    FixedLinear,
    ResidualNorm,
    States,
    attended,
    split_heads,
)


@dataclass(frozen=True)
class LayerParts:
    """The modules of one layer, in the order in which they are used."""

    num_heads: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    merge: nn.Linear
    attention_norm: nn.LayerNorm
    wide: nn.Linear
    narrow: nn.Linear
    output_norm: nn.LayerNorm


class _FixedLayer:
    """One layer; the projections of its input come first."""

    def __init__(self, layer: LayerParts, dtype: torch.dtype) -> None:
        self.num_heads = layer.num_heads
        self.project = FixedLinear(layer.query, layer.key, layer.value, dtype=dtype)
        self.output = _Output(layer, dtype)

    def __call__(self, hidden: Tensor, projected: Tensor, key_mask: Tensor | None) -> States:
        """Exact states (P, S, H) and their queries, keys and values (P, S, 3 H) -> states (P, S, H)."""
        return self.output(hidden, attended(*split_heads(projected, 3, self.num_heads), key_mask))


class _FixedLastLayer:
    """The last layer, for [CLS] alone."""

    def __init__(self, layer: LayerParts, dtype: torch.dtype) -> None:
        projections = layer.query, layer.key, layer.value
        self.attend = FirstAttention(*projections, num_heads=layer.num_heads, dtype=dtype)
        self.output = _Output(layer, dtype)

    def __call__(self, states: States, key_mask: Tensor | None) -> States:
        """(P, S, H) -> (P, H)."""
        return self.output(states.exact[:, 0], self.attend(states.rounded, key_mask))


class _Output:
    """What follows the attention in a layer."""

    def __init__(self, layer: LayerParts, dtype: torch.dtype) -> None:
        self.merge = FixedLinear(layer.merge, dtype=dtype)
        self.norm = ResidualNorm(layer.attention_norm, dtype=dtype)
        self.feed_forward = FeedForward(layer.wide, layer.narrow, layer.output_norm, dtype=dtype)

    def __call__(self, hidden: Tensor, merged: Tensor) -> States:
        return self.feed_forward(self.norm(hidden, self.merge(merged)))


class RositaScoring:
    """The network with its weights as they are when it is made."""

    def __init__(self, backbone: Backbone, layers: Sequence[LayerParts], pooler: nn.Module, dtype: torch.dtype) -> None:
        """Copies the weights of the layers.

        Args:
            backbone: computes what the first layer reads.
            dtype: of the products; the rest is in the precision of the weights.
        """
        self.backbone, self.pooler, self.dtype = backbone, pooler, dtype
        *most, last = layers
        self.layers = [_FixedLayer(layer, dtype) for layer in most]
        self.last = _FixedLastLayer(last, dtype)

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded tokens, (N, T, H), and their first projections, (N, T, 3 H)."""
        return self._projected(self.backbone.text_part(encoding))

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded regions, (N, R, H), and their first projections, (N, R, 3 H)."""
        return self._projected(self.backbone.region_part(encoding))

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """(P, H)."""
        mask = key_mask(text, regions)
        hidden = torch.cat([text["states"], regions["states"]], dim=1)
        states = States(hidden, hidden.to(self.dtype))
        for number, layer in enumerate(self.layers):
            if number:
                projected = layer.project(states.rounded)
            else:
                projected = torch.cat([text["projected"], regions["projected"]], dim=1)
            states = layer(states.exact, projected, mask)
        pooled: Tensor = self.pooler(self.last(states, mask).exact[:, None])
        return pooled

    def _projected(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.layers:  # the last one reads no projections
            return part
        states = full_precision(part["states"])
        return {**part, "states": states, "projected": self.layers[0].project(states.to(self.dtype))}


def key_mask(text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor | None:
    """(P, 1, 1, S), or None where neither text nor regions are padded: attention is faster without."""
    if "text_mask" not in text and "region_mask" not in regions:
        return None
    masks = [
        part[name] if name in part else part["states"].new_ones(part["states"].shape[:2], dtype=torch.bool)
        for part, name in ((text, "text_mask"), (regions, "region_mask"))
    ]
    return torch.cat(masks, dim=1)[:, None, None]
