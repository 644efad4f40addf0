"""The building blocks of LXMERT, with the authors' names for all parameters.

Shapes: P pairs, T tokens, R regions, S positions that ask (T or R), K positions that are seen, H hidden size,
A attention heads, D = H / A. A key mask is (P, 1, 1, K), True for what may be seen, or None where nothing is padded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun.blocks.attention import attend
from vlrun.blocks.dropout import Dropout

LAYER_NORM_EPS = 1e-12
BOX_SIZE = 4
NUM_TOKEN_TYPES = 2  # only row 0 is used; the table is BERT's


class TextEmbeddings(nn.Module):
    """Word, position and type, then norm and dropout.

    Row 0 of each table is padding to the authors and gets no gradient, although row 0 of the types is the only one in
    use, and row 0 of the positions is that of [CLS] in LXMERT: these only shrink by weight decay.
    """

    def __init__(self, vocabulary_size: int, max_positions: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary_size, hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(max_positions, hidden_size, padding_idx=0)
        self.token_type_embeddings = nn.Embedding(NUM_TOKEN_TYPES, hidden_size, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, token_ids: Tensor, position_ids: Tensor, token_types: Tensor) -> Tensor:
        """Ids (P, T), or whatever is broadcast to that."""
        hidden = (
            self.word_embeddings(token_ids)
            + self.position_embeddings(position_ids)
            + self.token_type_embeddings(token_types)
        )
        return self.dropout(self.LayerNorm(hidden))  # (P, T, H)


class VisualEmbeddings(nn.Module):
    """The mean of feature and box, each under a norm of its own; no position, so the order of regions is nothing."""

    def __init__(self, region_feature_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.visn_fc = nn.Linear(region_feature_size, hidden_size)
        self.visn_layer_norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.box_fc = nn.Linear(BOX_SIZE, hidden_size)
        self.box_layer_norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Embeds features (P, R, D) and boxes (P, R, 4) as (P, R, H)."""
        hidden = (self.visn_layer_norm(self.visn_fc(features)) + self.box_layer_norm(self.box_fc(boxes))) / 2
        return self.dropout(hidden)  # (P, R, H)


class Attention(nn.Module):
    """Multi-head attention of ``hidden`` over ``context``, before the output layer."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden: Tensor, context: Tensor, key_mask: Tensor | None, *, shows_regions: bool = False
    ) -> Tensor:
        """Lets hidden states (P, S, H) look at a context (P, K, H): (P, S, H)."""
        query, key, value = (
            dense(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (P, A, S or K, D)
            for dense, states in ((self.query, hidden), (self.key, context), (self.value, context))
        )
        dropout = self.dropout if self.training else 0.0
        # The original adds -10000 to the scores of padding, which the softmax makes exactly 0 in every float type, as
        # with a boolean mask: something is always seen, since every text has [CLS] and every image a region.
        merged = attend(query, key, value, key_mask, dropout=dropout, shows_regions=shows_regions)
        return merged.transpose(1, 2).flatten(-2)  # (P, S, H)


class ResidualOutput(nn.Module):
    """The end of every sub-layer: linear, dropout, plus what came in, norm."""

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Joins what a sub-layer gives (P, S, any width) and what came in (P, S, H): (P, S, H)."""
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class SelfAttention(nn.Module):
    """A stream looks at itself."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self = Attention(hidden_size, num_heads, dropout)
        self.output = ResidualOutput(hidden_size, hidden_size, dropout)

    def forward(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Lets states (P, S, H) look at each other: (P, S, H)."""
        return self.output(self.self(hidden, hidden, key_mask), hidden)

    def first(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """What ``forward`` gives for position 0 alone, which looks at all positions: (P, 1, H)."""
        first = hidden[:, :1]
        return self.output(self.self(first, hidden, key_mask), first)


class CrossAttention(nn.Module):
    """A stream looks at the other one."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.att = Attention(hidden_size, num_heads, dropout)
        self.output = ResidualOutput(hidden_size, hidden_size, dropout)

    def forward(
        self, hidden: Tensor, context: Tensor, key_mask: Tensor | None, *, shows_regions: bool = False
    ) -> Tensor:
        """Lets states (P, S, H) look at the other stream's (P, K, H): (P, S, H)."""
        return self.output(self.att(hidden, context, key_mask, shows_regions=shows_regions), hidden)


class Intermediate(nn.Module):
    """The wide half of a feed-forward block; GELU is the exact one."""

    def __init__(self, hidden_size: int, feed_forward_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, feed_forward_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Widens states (P, S, H) to (P, S, feed-forward size)."""
        return F.gelu(self.dense(hidden))


class SingleLayer(nn.Module):
    """One BERT layer, for a stream on its own."""

    def __init__(self, hidden_size: int, num_heads: int, feed_forward_size: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(hidden_size, num_heads, dropout)
        self.intermediate = Intermediate(hidden_size, feed_forward_size)
        self.output = ResidualOutput(feed_forward_size, hidden_size, dropout)

    def forward(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Runs the layer on the states of a stream: (P, S, H) -> (P, S, H)."""
        hidden = self.attention(hidden, key_mask)
        return self.output(self.intermediate(hidden), hidden)


class CrossLayer(nn.Module):
    """Both streams look at each other as they came in, with the same weights; then each is a layer of its own."""

    def __init__(self, hidden_size: int, num_heads: int, feed_forward_size: int, dropout: float) -> None:
        super().__init__()
        self.visual_attention = CrossAttention(hidden_size, num_heads, dropout)
        self.lang_self_att = SelfAttention(hidden_size, num_heads, dropout)
        self.visn_self_att = SelfAttention(hidden_size, num_heads, dropout)
        self.lang_inter = Intermediate(hidden_size, feed_forward_size)
        self.lang_output = ResidualOutput(feed_forward_size, hidden_size, dropout)
        self.visn_inter = Intermediate(hidden_size, feed_forward_size)
        self.visn_output = ResidualOutput(feed_forward_size, hidden_size, dropout)

    def forward(
        self, text: Tensor, regions: Tensor, text_mask: Tensor | None, region_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Runs the layer on text (P, T, H) and regions (P, R, H), which keep their shapes."""
        text, regions = (
            self.visual_attention(text, regions, region_mask, shows_regions=True),
            self.visual_attention(regions, text, text_mask),
        )
        text = self.lang_self_att(text, text_mask)
        regions = self.visn_self_att(regions, region_mask)
        return self.lang_output(self.lang_inter(text), text), self.visn_output(self.visn_inter(regions), regions)

    def first_of_text(
        self, text: Tensor, regions: Tensor, text_mask: Tensor | None, region_mask: Tensor | None
    ) -> Tensor:
        """What ``forward`` gives for the first token, (P, 1, H), without the regions' stream.

        All tokens look at the regions, for the first one looks at all tokens after that.
        """
        text = self.lang_self_att.first(
            self.visual_attention(text, regions, region_mask, shows_regions=True), text_mask
        )
        return self.lang_output(self.lang_inter(text), text)

    def first_of_regions(
        self, text: Tensor, regions: Tensor, text_mask: Tensor | None, region_mask: Tensor | None
    ) -> Tensor:
        """Likewise for the first region, (P, 1, H)."""
        regions = self.visn_self_att.first(self.visual_attention(regions, text, text_mask), region_mask)
        return self.visn_output(self.visn_inter(regions), regions)


class Pooler(nn.Module):
    """tanh of a linear layer on the first state."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Pools states (P, S, H) to (P, H)."""
        return torch.tanh(self.dense(hidden[:, 0]))
