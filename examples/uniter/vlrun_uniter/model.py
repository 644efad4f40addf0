"""The network, with the authors' names for most parameters. P pairs, T tokens, R regions, S = T + R, H hidden size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, Pair, PairEncoder, RegionBatch, TransformerSizes
from vlrun.blocks.dropout import Dropout
from vlrun.blocks.heads import NORM_EPSILON, init_layers, initial_std
from vlrun.blocks.pair_encoding import check_feature_size, check_text_length, fit_regions
from vlrun.blocks.wordpiece import WordPiece
from vlrun_uniter.config import UniterConfig


def encode(pairs: Sequence[Pair], regions: RegionBatch, words: WordPiece, limit: int, most: int, size: int) -> Encoding:
    """Word pieces; boxes as (x1, y1, x2, y2, w, h, w * h), in shares of the image (data/data.py of the authors)."""
    check_feature_size(regions, size, "uniter")
    token_ids, text_mask = words.encode_batch([pair.text for pair in pairs], limit)
    corners = regions.boxes / np.tile(regions.sizes[:, ::-1], 2)[:, None]
    sides = corners[..., 2:] - corners[..., :2]
    boxes = np.concatenate([corners, sides, sides.prod(-1, keepdims=True)], -1) * regions.mask[..., None]
    fitted = (fit_regions(array, most) for array in (regions.features, boxes, regions.mask))
    return Encoding(torch.from_numpy(token_ids), torch.from_numpy(text_mask), *map(torch.from_numpy, fitted))


class TextEmbeddings(nn.Module):
    """Word, position and type, then norm and dropout."""

    def __init__(self, num_words: int, sizes: TransformerSizes, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(num_words, sizes.hidden_size)
        self.position_embeddings = nn.Embedding(sizes.max_positions, sizes.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(P, T) -> (P, T, H)."""
        positions = self.position_embeddings.weight[: token_ids.shape[1]]
        states = self.word_embeddings(token_ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(states))


class ImageEmbeddings(nn.Module):
    """Feature and box, each under a norm of its own, and type; then norm and dropout."""

    def __init__(self, feature_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.img_linear, self.img_layer_norm = (
            nn.Linear(feature_size, hidden_size),
            nn.LayerNorm(hidden_size, NORM_EPSILON),
        )
        self.pos_linear, self.pos_layer_norm = nn.Linear(7, hidden_size), nn.LayerNorm(hidden_size, NORM_EPSILON)
        self.mask_embedding = nn.Embedding(2, feature_size)  # of hidden regions, in pre-training alone
        self.LayerNorm = nn.LayerNorm(hidden_size, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor, boxes: Tensor, image_type: Tensor) -> Tensor:
        """(P, R, feature size) and (P, R, 7) -> (P, R, H)."""
        seen = self.img_layer_norm(self.img_linear(features.to(boxes.dtype)))
        return self.dropout(self.LayerNorm(seen + self.pos_layer_norm(self.pos_linear(boxes)) + image_type))


def layer(sizes: TransformerSizes, dropout: float) -> nn.Module:
    """One layer of BERT, which drops nothing after the GELU."""
    width, heads, wide = sizes.hidden_size, sizes.num_heads, sizes.feed_forward_size
    made = nn.TransformerEncoderLayer(width, heads, wide, dropout, "gelu", NORM_EPSILON, batch_first=True)
    made.dropout = nn.Identity()
    nn.init.normal_(made.self_attn.in_proj_weight, std=initial_std(width))
    return made


class Uniter(Backbone):
    """The network of Chen et al. 2020, "UNITER: UNiversal Image-TExt Representation Learning"."""

    optional_weights = ("itm_output",)
    depth_options: ClassVar[Mapping[str, str]] = {"layers": "num_layers"}

    def __init__(self, config: UniterConfig) -> None:
        super().__init__()
        self.config, sizes = config, config.sizes
        self.hidden_size = sizes.hidden_size
        self.wordpiece = WordPiece(config.vocabulary)
        self.vocabulary_hash = self.wordpiece.hash
        self.embeddings = TextEmbeddings(self.wordpiece.size, sizes, config.dropout)
        self.img_embeddings = ImageEmbeddings(config.region_feature_size, sizes.hidden_size, config.dropout)
        self.layers = nn.ModuleList(layer(sizes, config.dropout) for _ in range(sizes.num_layers))
        self.pooler = nn.ModuleDict({"dense": nn.Linear(sizes.hidden_size, sizes.hidden_size)})
        self.itm_output = nn.Linear(sizes.hidden_size, 2)
        init_layers(self, sizes.hidden_size)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        check_text_length(max_text_tokens, self.config.sizes.max_positions, "uniter")
        most, size = self.config.num_regions, self.config.region_feature_size
        return partial(encode, words=self.wordpiece, limit=max_text_tokens, most=most, size=size)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H), pooled (P, H)."""
        text = self.embeddings(encoding.token_ids)
        image_type = self.embeddings.token_type_embeddings.weight[1]
        regions = self.img_embeddings(encoding.region_features, encoding.boxes, image_type)
        states = torch.cat([text, regions], dim=1)
        hidden = ~torch.cat([encoding.text_mask, encoding.region_mask], dim=1)
        for each in self.layers:
            states = each(states, src_key_padding_mask=hidden)
        pooled = torch.tanh(self.pooler["dense"](states[:, 0]))
        text, regions = states.split([text.shape[1], regions.shape[1]], dim=1)
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)

    def word_table(self) -> nn.Parameter:
        """The word embeddings, which a word head may be tied to."""
        return self.embeddings.word_embeddings.weight

    def matching_head(self) -> nn.Module:
        return self.itm_output
