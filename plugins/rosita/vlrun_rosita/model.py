"""ROSITA: a post-norm BERT encoder over [text tokens ; image regions], with the authors' names for all parameters.

Shapes: P pairs, T tokens, R regions, S = T + R positions, H hidden size, A attention heads, D = H / A. A key mask is
(P, 1, 1, S), True for what may be seen, or None where nothing is padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, PairEncoder
from vlrun.blocks.attention import attend
from vlrun.blocks.dropout import Dropout
from vlrun.blocks.heads import init_layers
from vlrun.blocks.pair_encoding import check_text_length
from vlrun.blocks.wordpiece import WordPiece
from vlrun_rosita.checkpoint import HEADS, MATCHING_HEAD, OLD_HEADS
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.scoring import LayerParts, RositaScoring, key_mask
from vlrun_rosita.text import RositaPairEncoder

LAYER_NORM_EPS = 1e-12
BOX_FEATURE_SIZE = 5
NUM_TOKEN_TYPES = 2  # only row 0 is used; the table is BERT's


class TextEmbeddings(nn.Module):
    """Word, position and type, then norm and dropout; positions count from 0 at [CLS]."""

    def __init__(self, vocabulary_size: int, max_positions: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary_size, hidden_size)
        self.position_embeddings = nn.Embedding(max_positions, hidden_size)
        self.token_type_embeddings = nn.Embedding(NUM_TOKEN_TYPES, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeds token ids (P, T) as (P, T, H)."""
        positions = self.position_embeddings.weight[: token_ids.shape[1]]  # (T, H)
        hidden = self.word_embeddings(token_ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.layer_norm(hidden))  # (P, T, H)


class VisualEmbeddings(nn.Module):
    """Region feature plus box, under one norm; no position, so the order of regions does not matter."""

    def __init__(self, region_feature_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dense_imgfeat = nn.Linear(region_feature_size, hidden_size)
        self.dense_bboxfeat = nn.Linear(BOX_FEATURE_SIZE, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, region_features: Tensor, boxes: Tensor) -> Tensor:
        """Embeds region features (P, R, region feature size) and boxes (P, R, 5) as (P, R, H)."""
        dtype = self.dense_imgfeat.weight.dtype  # features arrive in the type of the store, often float16
        hidden = self.dense_imgfeat(region_features.to(dtype)) + self.dense_bboxfeat(boxes.to(dtype))
        return self.dropout(self.layer_norm(hidden))  # (P, R, H)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.dense_v = nn.Linear(hidden_size, hidden_size)
        self.dense_k = nn.Linear(hidden_size, hidden_size)
        self.dense_q = nn.Linear(hidden_size, hidden_size)
        self.dense_merge = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Lets all positions look at each other: (P, S, H) -> (P, S, H)."""
        return self.of(hidden, hidden, key_mask)

    def of(self, asking: Tensor, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Attention of some positions, ``asking`` (P, Q, H), over all of them."""
        query, key, value = (
            dense(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (P, A, Q or S, D)
            for dense, states in ((self.dense_q, asking), (self.dense_k, hidden), (self.dense_v, hidden))
        )
        dropout = self.dropout if self.training else 0.0
        # The original adds -10000 to the scores of padding. [CLS] is never padding, so in every float type the softmax
        # of such a score is exactly 0, as with a boolean mask.
        merged = attend(query, key, value, key_mask, dropout=dropout, shows_regions=True)
        return self.dense_merge(merged.transpose(1, 2).flatten(-2))  # (P, Q, H)


class FeedForward(nn.Module):
    """Two linear layers with the exact GELU between them (its tanh form moves the answer logits by 1e-3)."""

    def __init__(self, hidden_size: int, feed_forward_size: int) -> None:
        super().__init__()
        self.dense0 = nn.Linear(hidden_size, feed_forward_size)
        self.dense1 = nn.Linear(feed_forward_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Treats each position alone: (P, S, H) -> (P, S, H)."""
        return self.dense1(F.gelu(self.dense0(hidden)))


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, hidden_size: int, num_heads: int, feed_forward_size: int, dropout: float) -> None:
        super().__init__()
        self.mhatt = Attention(hidden_size, num_heads, dropout)
        self.ffn = FeedForward(hidden_size, feed_forward_size)
        self.layer_norm0 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.layer_norm1 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Runs the layer: (P, S, H) -> (P, S, H)."""
        return self._after_attention(hidden, self.mhatt(hidden, key_mask))

    def first(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """What ``forward`` gives for position 0 alone, which looks at all positions: (P, 1, H)."""
        first = hidden[:, :1]
        return self._after_attention(first, self.mhatt.of(first, hidden, key_mask))

    def parts(self) -> LayerParts:
        """The modules that scoring many pairs copies."""
        attention = self.mhatt
        return LayerParts(
            num_heads=attention.num_heads,
            query=attention.dense_q,
            key=attention.dense_k,
            value=attention.dense_v,
            merge=attention.dense_merge,
            attention_norm=self.layer_norm0,
            wide=self.ffn.dense0,
            narrow=self.ffn.dense1,
            output_norm=self.layer_norm1,
        )

    def _after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self.layer_norm0(hidden + self.dropout(attended))
        return self.layer_norm1(hidden + self.dropout(self.ffn(hidden)))


class Transformer(nn.Module):
    """The layers, one after the other."""

    def __init__(
        self, num_layers: int, hidden_size: int, num_heads: int, feed_forward_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(hidden_size, num_heads, feed_forward_size, dropout) for _ in range(num_layers)
        )

    def forward(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Runs all layers: (P, S, H) -> (P, S, H)."""
        for layer in self.layers:
            hidden = layer(hidden, key_mask)
        return hidden

    def first(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """What ``forward`` gives for position 0, (P, 1, H): the last layer computes no other."""
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden, key_mask)
        return last.first(hidden, key_mask)


class Pooler(nn.Module):
    """tanh of a linear layer on [CLS]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Pools states (P, S, H) to (P, H)."""
        return torch.tanh(self.dense(hidden[:, 0]))


class MatchingHead(nn.Module):
    """Two-class image-text matching; class 1 is a match."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled outputs (P, H) -> logits (P, 2)."""
        return self.dense(pooled)


class Rosita(Backbone):
    """The network of Cui et al. 2021, "ROSITA: Enhancing Vision-and-Language Semantic Alignments via Cross- and
    Intra-modal Knowledge Integration".
    """

    wordpiece: WordPiece
    optional_weights = (MATCHING_HEAD,)
    unused_weights = (*(head for head in HEADS.values() if head != MATCHING_HEAD), *OLD_HEADS)
    depth_options: ClassVar[Mapping[str, str]] = {"backbone.layers": "num_layers"}

    def __init__(
        self,
        wordpiece: WordPiece,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        feed_forward_size: int,
        max_positions: int,
        region_feature_size: int,
        num_regions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.wordpiece = wordpiece
        self.hidden_size = hidden_size
        self.vocabulary_hash = wordpiece.hash
        self.max_positions = max_positions
        self.region_feature_size = region_feature_size
        self.num_regions = num_regions
        self.text_embeddings = TextEmbeddings(wordpiece.size, max_positions, hidden_size, dropout)
        self.visual_embeddings = VisualEmbeddings(region_feature_size, hidden_size, dropout)
        self.backbone = Transformer(num_layers, hidden_size, num_heads, feed_forward_size, dropout)
        self.pooler = Pooler(hidden_size)
        init_layers(self, hidden_size)
        with torch.random.fork_rng(devices=[]):  # beside the stream: heads of tasks start as if it was not there
            self.mm_itm_head = MatchingHead(hidden_size)
            init_layers(self.mm_itm_head, hidden_size)

    @classmethod
    def from_config(cls, config: RositaConfig) -> Rosita:
        """Builds the network of an experiment, with random weights."""
        sizes = config.sizes
        return cls(
            WordPiece(config.vocabulary),
            hidden_size=sizes.hidden_size,
            num_layers=sizes.num_layers,
            num_heads=sizes.num_heads,
            feed_forward_size=sizes.feed_forward_size,
            max_positions=sizes.max_positions,
            region_feature_size=config.region_feature_size,
            num_regions=config.num_regions,
            dropout=config.dropout,
        )

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """The text and box pipeline, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, "rosita")
        return RositaPairEncoder(self.wordpiece, max_text_tokens, self.num_regions, self.region_feature_size)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H), pooled (P, H)."""
        text = self.text_embeddings(encoding.token_ids)
        regions = self.visual_embeddings(encoding.region_features, encoding.boxes)
        key_mask = None
        if not (encoding.full_texts and encoding.full_regions):
            key_mask = torch.cat([encoding.text_mask, encoding.region_mask], dim=1)[:, None, None]  # (P, 1, 1, S)
        hidden = self.backbone(torch.cat([text, regions], dim=1), key_mask)
        text, regions = hidden.split([text.shape[1], regions.shape[1]], dim=1)
        return BackboneOutput(text, regions, self.pooler(hidden), encoding.text_mask, encoding.region_mask)

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded tokens, (N, T, H)."""
        return {"states": self.text_embeddings(encoding.token_ids), "text_mask": encoding.text_mask}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded regions, (N, R, H)."""
        states = self.visual_embeddings(encoding.region_features, encoding.boxes)
        return {"states": states, "region_mask": encoding.region_mask}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """All layers, for text and regions see each other from the first on; the last one for [CLS] alone."""
        hidden = torch.cat([text["states"], regions["states"]], dim=1)
        return self.pooler(self.backbone.first(hidden, key_mask(text, regions)))

    def for_scoring(self, dtype: torch.dtype) -> RositaScoring:
        """The same with the weights as they are, and products in ``dtype``."""
        layers = [layer.parts() for layer in self.backbone.layers]
        return RositaScoring(self, layers, self.pooler, dtype)

    def word_table(self) -> nn.Parameter:
        """The word embeddings, which the authors' word head is tied to."""
        return self.text_embeddings.word_embeddings.weight

    def matching_head(self) -> MatchingHead:
        """The authors' ``mm_itm_head``, which not every file of theirs has."""
        return self.mm_itm_head
