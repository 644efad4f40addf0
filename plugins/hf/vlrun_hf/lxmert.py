"""LXMERT of transformers (Tan and Bansal 2019, "LXMERT: Learning Cross-Modality Encoder Representations from
Transformers"); the plugin vlrun-lxmert-s has a faster network for the same weights.

Shapes: P pairs, L tokens, R regions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import transformers
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, PairEncoder
from vlrun.blocks.heads import init_layers
from vlrun.blocks.pair_encoding import check_text_length
from vlrun.blocks.tokenizer import TextTokenizer, read_tokenizer
from vlrun_hf.regions import RegionPairEncoder, additive_mask
from vlrun_hf.single_stream import MATCHING_HEAD, bert_options

if TYPE_CHECKING:
    from vlrun_hf.config import TransformersLxmertConfig

_NUM_SHARES = 4
_NAME = "transformers-lxmert"


class TransformersLxmert(Backbone):
    """The network of transformers: two streams that look at each other in cross-modal layers."""

    wordpiece: TextTokenizer
    optional_weights = (MATCHING_HEAD,)
    layer_stacks: ClassVar[Sequence[Sequence[str]]] = (
        ("lxmert.encoder.layer", "lxmert.encoder.r_layers"),
        ("lxmert.encoder.x_layers",),
    )
    depth_options: ClassVar[Mapping[str, str]] = {
        "lxmert.encoder.layer": "num_language_layers",
        "lxmert.encoder.x_layers": "num_cross_layers",
        "lxmert.encoder.r_layers": "num_object_layers",
    }

    def __init__(self, tokenizer: TextTokenizer, config: transformers.LxmertConfig, num_regions: int) -> None:
        super().__init__()
        self.wordpiece, self.vocabulary_hash = tokenizer, tokenizer.hash
        self.hidden_size: int = config.hidden_size
        self.max_positions: int = config.max_position_embeddings
        self.region_feature_size: int = config.visual_feat_dim
        self.num_regions = num_regions
        self.lxmert = transformers.LxmertModel(config)
        self.seq_relationship = nn.Linear(self.hidden_size, 2)
        init_layers(self, self.hidden_size)

    @classmethod
    def from_config(cls, config: TransformersLxmertConfig) -> TransformersLxmert:
        """Builds the network of an experiment, with random weights."""
        tokenizer, sizes = read_tokenizer(config.vocabulary), config.sizes
        network = transformers.LxmertConfig(
            **bert_options(tokenizer, sizes, config.dropout),
            l_layers=sizes.num_language_layers,
            x_layers=sizes.num_cross_layers,
            r_layers=sizes.num_object_layers,
            visual_feat_dim=config.region_feature_size,
            visual_pos_dim=_NUM_SHARES,
        )
        return cls(tokenizer, network, config.num_regions)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """Words and regions, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, _NAME)
        return RegionPairEncoder(
            _NAME, self.wordpiece, max_text_tokens, self.num_regions, self.region_feature_size, _NUM_SHARES
        )

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), regions (P, R, H), pooled (P, H)."""
        text, regions = self._crossed(self.text_part(encoding), self.region_part(encoding))
        pooled = self.lxmert.pooler(text)
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The text after the layers that see it alone, (N, L, H)."""
        states = self.lxmert.embeddings(encoding.token_ids, torch.zeros_like(encoding.token_ids))
        mask = additive_mask(encoding.text_mask, dtype=states.dtype)
        for layer in self.lxmert.encoder.layer:
            states = layer(states, mask)[0]
        return {"states": states, "text_mask": encoding.text_mask}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The regions after the layers that see them alone, (N, R, H)."""
        dtype = self.lxmert.encoder.visn_fc.visn_fc.weight.dtype
        states = self.lxmert.encoder.visn_fc(encoding.region_features.to(dtype), encoding.boxes.to(dtype))
        mask = additive_mask(encoding.region_mask, dtype=states.dtype)
        for layer in self.lxmert.encoder.r_layers:
            states = layer(states, mask)[0]
        return {"states": states, "region_mask": encoding.region_mask}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The cross-modal layers."""
        pooled: Tensor = self.lxmert.pooler(self._crossed(text, regions)[0])
        return pooled

    def word_table(self) -> nn.Parameter:
        """The word embeddings."""
        table: nn.Parameter = self.lxmert.embeddings.word_embeddings.weight
        return table

    def matching_head(self) -> nn.Module:
        """The authors' ``cls.seq_relationship``."""
        return self.seq_relationship

    def _crossed(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both streams after the cross-modal layers."""
        states = text["states"], regions["states"]
        dtype = states[0].dtype
        text_mask = additive_mask(text.get("text_mask"), dtype=dtype)
        region_mask = additive_mask(regions.get("region_mask"), dtype=dtype)
        for layer in self.lxmert.encoder.x_layers:
            states = layer(states[0], text_mask, states[1], region_mask)[:2]
        return states
