"""LXMERT and LXMERT-S for scoring many pairs: what ``pooled_output`` gives, in fewer and larger products.

What the first cross-modal layer projects depends on one side alone, so it belongs to the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

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
from vlrun_lxmert_s.layers import Attention, CrossLayer, Intermediate, ResidualOutput, SelfAttention

Mask = Tensor | None
"""(P, 1, 1, K), True for what may be seen; None where nothing is padded."""


class _Output:
    """The end of an attention: linear, sum and norm."""

    def __init__(self, output: ResidualOutput, dtype: torch.dtype) -> None:
        self.dense = FixedLinear(output.dense, dtype=dtype)
        self.norm = ResidualNorm(output.LayerNorm, dtype=dtype)

    def __call__(self, hidden: Tensor, merged: Tensor) -> States:
        """Exact states that went in and what the attention gives -> states."""
        return self.norm(hidden, self.dense(merged))


class _Stream:
    """Text or regions after both looked at each other: self-attention and feed-forward block."""

    def __init__(
        self, attention: SelfAttention, wide: Intermediate, narrow: ResidualOutput, dtype: torch.dtype, *, first: bool
    ) -> None:
        layer = attention.self
        self.num_heads = layer.num_heads
        projections = layer.query, layer.key, layer.value
        if first:
            self.attend_first = FirstAttention(*projections, num_heads=layer.num_heads, dtype=dtype)
        else:
            self.project = FixedLinear(*projections, dtype=dtype)
        self.output = _Output(attention.output, dtype)
        self.feed_forward = FeedForward(wide.dense, narrow.dense, narrow.LayerNorm, dtype=dtype)

    def __call__(self, states: States, mask: Mask) -> States:
        """(P, S, H) -> (P, S, H)."""
        merged = attended(*split_heads(self.project(states.rounded), 3, self.num_heads), mask)
        return self.feed_forward(self.output(states.exact, merged))

    def first(self, states: States, mask: Mask) -> States:
        """(P, S, H) -> (P, H) of the first position."""
        merged = self.attend_first(states.rounded, mask)
        return self.feed_forward(self.output(states.exact[:, 0], merged))


class _Looking:
    """The attention with which each stream looks at the other one: queries, keys and values of a stream."""

    def __init__(self, attention: Attention, dtype: torch.dtype, *, asks: bool = True, is_seen: bool = True) -> None:
        layers = [*([attention.query] if asks else []), *([attention.key, attention.value] if is_seen else [])]
        self.num_heads, self.count = attention.num_heads, len(layers)
        self.project = FixedLinear(*layers, dtype=dtype)

    def __call__(self, states: States) -> tuple[Tensor, ...]:
        """(P, S, H) -> the projections, each (P, A, S, D)."""
        return self.heads(self.project(states.rounded))

    def heads(self, projected: Tensor) -> tuple[Tensor, ...]:
        """(P, S, count x H) -> each (P, A, S, D)."""
        return split_heads(projected, self.count, self.num_heads)


class LxmertScoring:
    """The network with its weights as they are when it is made."""

    def __init__(
        self,
        backbone: Backbone,
        cross_layers: Sequence[CrossLayer],
        pool: Callable[..., Tensor],
        dtype: torch.dtype,
        *,
        pools_regions: bool,
    ) -> None:
        """Copies the weights of the cross-modal layers.

        Args:
            backbone: computes what they read.
            pool: the last states of the text, and of the regions if ``pools_regions``, -> (P, H).
            dtype: of the products; the rest is in the precision of the weights.
        """
        self.backbone, self.pool, self.dtype, self.pools_regions = backbone, pool, dtype, pools_regions
        layers, last, both = list(cross_layers), len(cross_layers) - 1, pools_regions

        def looking(number: int, *, text: bool) -> _Looking:
            needed = both or not 0 < number == last  # what the first layer projects is there already
            return _Looking(layers[number].visual_attention.att, dtype, asks=text or needed, is_seen=not text or needed)

        self.text_looks = [looking(number, text=True) for number in range(len(layers))]
        self.regions_look = [looking(number, text=False) for number in range(len(layers))]
        self.outputs = [_Output(layer.visual_attention.output, dtype) for layer in layers]
        self.texts = [
            _Stream(layer.lang_self_att, layer.lang_inter, layer.lang_output, dtype, first=number == last)
            for number, layer in enumerate(layers)
        ]
        self.regions = [
            _Stream(layer.visn_self_att, layer.visn_inter, layer.visn_output, dtype, first=number == last)
            for number, layer in enumerate(layers)
            if both or number < last
        ]

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The network's, and what the first cross-modal layer projects of it, (N, T, 3 H)."""
        return self._projected(self.backbone.text_part(encoding), self.text_looks[0])

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """Likewise of the regions, (N, R, 3 H)."""
        return self._projected(self.backbone.region_part(encoding), self.regions_look[0])

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """(P, H)."""
        masks = tuple(
            None if mask is None else mask[:, None, None]
            for mask in (text.get("text_mask"), regions.get("region_mask"))
        )
        streams = self._states(text), self._states(regions)
        of_text, of_regions = (
            self.text_looks[0].heads(text["projected"]),
            self.regions_look[0].heads(regions["projected"]),
        )
        last = len(self.texts) - 1
        for number in range(last):
            if number:
                of_text, of_regions = self.text_looks[number](streams[0]), self.regions_look[number](streams[1])
            output = self.outputs[number]
            looked = (
                output(streams[0].exact, attended(of_text[0], *of_regions[1:], masks[1])),
                output(streams[1].exact, attended(of_regions[0], *of_text[1:], masks[0])),
            )
            streams = self.texts[number](looked[0], masks[0]), self.regions[number](looked[1], masks[1])
        if last:
            of_text, of_regions = self.text_looks[last](streams[0]), self.regions_look[last](streams[1])
        text_first = self._first(self.texts[last], streams[0], of_text, of_regions, masks)
        if not self.pools_regions:
            return self.pool(text_first)
        return self.pool(text_first, self._first(self.regions[last], streams[1], of_regions, of_text, masks[::-1]))

    def _first(
        self,
        stream: _Stream,
        states: States,
        own: tuple[Tensor, ...],
        other: tuple[Tensor, ...],
        masks: tuple[Mask, ...],
    ) -> Tensor:
        """The first state of a stream after the last layer, (P, 1, H)."""
        looked = self.outputs[-1](states.exact, attended(own[0], *other[-2:], masks[1]))
        return stream.first(looked, masks[0]).exact[:, None]

    def _states(self, part: Mapping[str, Tensor]) -> States:
        return States(part["states"], part["states"].to(self.dtype))

    def _projected(self, part: dict[str, Tensor], looks: _Looking) -> dict[str, Tensor]:
        states = full_precision(part["states"])
        return {**part, "states": states, "projected": looks.project(states.to(self.dtype))}
