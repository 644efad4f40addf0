"""VisualBERT of transformers (Li et al. 2019, "VisualBERT: A Simple and Performant Baseline for Vision and Language").

Shapes: P pairs, L tokens, R regions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import transformers
from torch import Tensor, nn

from vlrun import Encoding, PairEncoder
from vlrun.blocks.heads import init_layers
from vlrun.blocks.pair_encoding import check_text_length
from vlrun.blocks.tokenizer import TextTokenizer, read_tokenizer
from vlrun_hf.regions import RegionPairEncoder, additive_mask, mask_of
from vlrun_hf.single_stream import SingleStream, bert_options

if TYPE_CHECKING:
    from vlrun_hf.config import VisualBertConfig

_NUM_SHARES = 4  # which nothing reads: regions are a set without places
_IMAGE = 1  # row of the table of visual token types


class VisualBert(SingleStream):
    """The network of transformers: one stream over [text tokens ; regions], with BERT's embeddings for both."""

    depth_options: ClassVar[Mapping[str, str]] = {"visual_bert.encoder.layer": "num_layers"}

    def __init__(self, tokenizer: TextTokenizer, config: transformers.VisualBertConfig, num_regions: int) -> None:
        super().__init__(
            tokenizer,
            hidden_size=config.hidden_size,
            max_positions=config.max_position_embeddings,
            region_feature_size=config.visual_embedding_dim,
            num_regions=num_regions,
        )
        self.visual_bert = transformers.VisualBertModel(config)
        self.seq_relationship = nn.Linear(self.hidden_size, 2)
        init_layers(self, self.hidden_size)

    @classmethod
    def from_config(cls, config: VisualBertConfig) -> VisualBert:
        """Builds the network of an experiment, with random weights."""
        tokenizer, sizes = read_tokenizer(config.vocabulary), config.sizes
        network = transformers.VisualBertConfig(
            **bert_options(tokenizer, sizes, config.dropout),
            num_hidden_layers=sizes.num_layers,
            visual_embedding_dim=config.region_feature_size,
        )
        return cls(tokenizer, network, config.num_regions)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """Words and regions, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, "visualbert")
        return RegionPairEncoder(
            "visualbert", self.wordpiece, max_text_tokens, self.num_regions, self.region_feature_size, _NUM_SHARES
        )

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded regions, (N, R, H): features, the type of images, and the first visual position."""
        embeddings = self.visual_bert.embeddings
        projection = embeddings.visual_projection
        states = projection(encoding.region_features.to(projection.weight.dtype))
        states = states + embeddings.visual_position_embeddings.weight[0]
        states = states + embeddings.visual_token_type_embeddings.weight[_IMAGE]
        return {"states": embeddings.dropout(embeddings.LayerNorm(states)), "region_mask": encoding.region_mask}

    @property
    def trunk(self) -> transformers.VisualBertModel:
        """The network of transformers."""
        return self.visual_bert

    def encoded(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """Hidden states (P, L + R, H)."""
        states = text["states"], regions["states"]
        mask = None
        if "text_mask" in text or "region_mask" in regions:
            masks = mask_of(text, "text_mask", states[0]), mask_of(regions, "region_mask", states[1])
            mask = additive_mask(*masks, dtype=states[0].dtype)
        hidden: Tensor = self.visual_bert.encoder(torch.cat(states, dim=1), attention_mask=mask)[0]
        return hidden
