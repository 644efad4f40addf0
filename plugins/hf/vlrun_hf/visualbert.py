"""VisualBERT of transformers (Li et al. 2019, "VisualBERT: A Simple and Performant Baseline for Vision and Language").

Shapes: P pairs, L tokens, R regions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import transformers
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, PairEncoder
from vlrun.blocks.heads import init_layers
from vlrun.blocks.pair_encoding import check_text_length
from vlrun.blocks.tokenizer import TextTokenizer, read_tokenizer
from vlrun_hf.regions import RegionPairEncoder, additive_mask, mask_of

if TYPE_CHECKING:
    from vlrun_hf.config import VisualBertConfig

MATCHING_HEAD = "seq_relationship"
_NUM_SHARES = 4  # which nothing reads: regions are a set without places
_IMAGE = 1  # row of the table of visual token types


class VisualBert(Backbone):
    """The network of transformers: one stream over [text tokens ; regions], with BERT's embeddings for both."""

    wordpiece: TextTokenizer
    optional_weights = (MATCHING_HEAD,)
    depth_options: ClassVar[Mapping[str, str]] = {"visual_bert.encoder.layer": "num_layers"}

    def __init__(self, tokenizer: TextTokenizer, config: transformers.VisualBertConfig, num_regions: int) -> None:
        super().__init__()
        self.wordpiece, self.vocabulary_hash = tokenizer, tokenizer.hash
        self.hidden_size: int = config.hidden_size
        self.max_positions: int = config.max_position_embeddings
        self.region_feature_size: int = config.visual_embedding_dim
        self.num_regions = num_regions
        self.visual_bert = transformers.VisualBertModel(config)
        self.seq_relationship = nn.Linear(self.hidden_size, 2)
        init_layers(self, self.hidden_size)

    @classmethod
    def from_config(cls, config: VisualBertConfig) -> VisualBert:
        """Builds the network of an experiment, with random weights."""
        tokenizer, sizes = read_tokenizer(config.vocabulary), config.sizes
        network = transformers.VisualBertConfig(
            vocab_size=tokenizer.size,
            hidden_size=sizes.hidden_size,
            visual_embedding_dim=config.region_feature_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.feed_forward_size,
            max_position_embeddings=sizes.max_positions,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            pad_token_id=tokenizer.pad_id,
        )
        return cls(tokenizer, network, config.num_regions)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """Words and regions, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, "visualbert")
        return RegionPairEncoder(
            "visualbert", self.wordpiece, max_text_tokens, self.num_regions, self.region_feature_size, _NUM_SHARES
        )

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), regions (P, R, H), pooled (P, H)."""
        hidden = self._encoded(self.text_part(encoding), self.region_part(encoding))
        length = encoding.token_ids.shape[1]
        return BackboneOutput(
            text=hidden[:, :length],
            regions=hidden[:, length:],
            pooled=self.visual_bert.pooler(hidden),
            text_mask=encoding.text_mask,
            region_mask=encoding.region_mask,
        )

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded tokens, (N, L, H)."""
        return {"states": self.visual_bert.embeddings(input_ids=encoding.token_ids), "text_mask": encoding.text_mask}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded regions, (N, R, H): features, the type of images, and the first visual position."""
        embeddings = self.visual_bert.embeddings
        projection = embeddings.visual_projection
        states = projection(encoding.region_features.to(projection.weight.dtype))
        states = states + embeddings.visual_position_embeddings.weight[0]
        states = states + embeddings.visual_token_type_embeddings.weight[_IMAGE]
        return {"states": embeddings.dropout(embeddings.LayerNorm(states)), "region_mask": encoding.region_mask}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """All layers, for text and regions see each other from the first on."""
        pooled: Tensor = self.visual_bert.pooler(self._encoded(text, regions))
        return pooled

    def word_table(self) -> nn.Parameter:
        """The word embeddings."""
        table: nn.Parameter = self.visual_bert.embeddings.word_embeddings.weight
        return table

    def matching_head(self) -> nn.Module:
        """The authors' ``cls.seq_relationship``."""
        return self.seq_relationship

    def _encoded(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """Hidden states (P, L + R, H)."""
        states = text["states"], regions["states"]
        mask = None
        if "text_mask" in text or "region_mask" in regions:
            masks = mask_of(text, "text_mask", states[0]), mask_of(regions, "region_mask", states[1])
            mask = additive_mask(*masks, dtype=states[0].dtype)
        hidden: Tensor = self.visual_bert.encoder(torch.cat(states, dim=1), attention_mask=mask)[0]
        return hidden
