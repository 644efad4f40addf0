"""Oscar and VinVL (Li et al. 2020, "Oscar: Object-Semantics Aligned Pre-training for Vision-Language Tasks"; Zhang et
al. 2021, "VinVL"): BERT of transformers over [text ; object tags ; regions].

Shapes: P pairs, L tokens, T tokens of tags, R regions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import transformers
from torch import Tensor, nn

from vlrun import ConfigError, Encoding, PairEncoder
from vlrun.blocks.heads import init_layers
from vlrun.blocks.object_tags import ObjectTags, read_class_names
from vlrun.blocks.pair_encoding import check_text_length
from vlrun.blocks.tokenizer import TextTokenizer, read_tokenizer
from vlrun_hf.regions import NUM_SHARES, RegionPairEncoder, additive_mask, mask_of
from vlrun_hf.single_stream import SingleStream, bert_options

if TYPE_CHECKING:
    from vlrun_hf.config import OscarConfig

_TAGS = 1  # row of the table of token types; the text has 0, and regions have none


class Oscar(SingleStream):
    """BERT whose input goes on after the text: tags as its second segment, then regions without places in the row.

    A tag's position counts on from the end of its text, as the authors write both in one row, so it is added where a
    pair is put together. The feature of a region is that of the detector and six numbers of its box.
    """

    depth_options: ClassVar[Mapping[str, str]] = {"bert.encoder.layer": "num_layers"}

    def __init__(
        self,
        tokenizer: TextTokenizer,
        config: transformers.BertConfig,
        *,
        region_feature_size: int,
        num_regions: int,
        image_norm: bool,
        tags: ObjectTags | None,
    ) -> None:
        super().__init__(
            tokenizer,
            hidden_size=config.hidden_size,
            max_positions=config.max_position_embeddings,
            region_feature_size=region_feature_size,
            num_regions=num_regions,
        )
        self.tags, self.reads_classes = tags, tags is not None
        self.bert = transformers.BertModel(config)
        self.img_embedding = nn.Linear(region_feature_size + NUM_SHARES, self.hidden_size)
        self.img_norm = nn.LayerNorm(self.hidden_size, eps=config.layer_norm_eps) if image_norm else nn.Identity()
        self.seq_relationship = nn.Linear(self.hidden_size, 2)
        init_layers(self, self.hidden_size)

    @classmethod
    def from_config(cls, config: OscarConfig) -> Oscar:
        """Builds the network of an experiment, with random weights.

        Raises:
            DataError: the file of class names is damaged.
        """
        tokenizer, sizes = read_tokenizer(config.vocabulary), config.sizes
        options = bert_options(tokenizer, sizes, config.dropout)
        network = transformers.BertConfig(**options, num_hidden_layers=sizes.num_layers)
        tags = None
        if config.class_names is not None:
            tags = ObjectTags(tokenizer, read_class_names(config.class_names), config.max_tag_tokens)
        return cls(
            tokenizer,
            network,
            region_feature_size=config.region_feature_size,
            num_regions=config.num_regions,
            image_norm=config.image_norm,
            tags=tags,
        )

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """Words, tags and regions, for texts of ``max_text_tokens`` at the most.

        Raises:
            ConfigError: text and tags are longer than the table of positions.
        """
        check_text_length(max_text_tokens, self.max_positions, "oscar")
        longest = max_text_tokens + (0 if self.tags is None else self.tags.max_tokens)
        if longest > self.max_positions:
            raise ConfigError(
                f"max_text_tokens {max_text_tokens} and backbone.max_tag_tokens make {longest}, and there are "
                f"{self.max_positions} positions"
            )
        return RegionPairEncoder(
            "oscar",
            self.wordpiece,
            max_text_tokens,
            self.num_regions,
            self.region_feature_size,
            NUM_SHARES,
            self.tags,
        )

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded regions, (N, R, H), and the tags before their positions and the norm, (N, T, H)."""
        embeddings, dtype = self.bert.embeddings, self.img_embedding.weight.dtype
        features = torch.cat([encoding.region_features.to(dtype), encoding.boxes.to(dtype)], dim=-1)
        states = embeddings.dropout(self.img_norm(self.img_embedding(features)))
        part = {"states": states, "region_mask": encoding.region_mask}
        if encoding.tag_ids is None or encoding.tag_mask is None:
            return part
        words = embeddings.word_embeddings(encoding.tag_ids) + embeddings.token_type_embeddings.weight[_TAGS]
        return {**part, "tags": words, "tag_mask": encoding.tag_mask}

    @property
    def trunk(self) -> transformers.BertModel:
        """The network of transformers."""
        return self.bert

    def encoded(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """Hidden states (P, L + T + R, H)."""
        states, masks = [text["states"]], [mask_of(text, "text_mask", text["states"])]
        if "tags" in regions:
            embeddings, tags = self.bert.embeddings, regions["tags"]
            places = masks[0].sum(dim=1, keepdim=True) + torch.arange(tags.shape[1], device=tags.device)  # (P, T)
            positions = embeddings.position_embeddings(places.clamp(max=self.max_positions - 1))
            states.append(embeddings.dropout(embeddings.LayerNorm(tags + positions)))
            masks.append(regions["tag_mask"])
        states.append(regions["states"])
        masks.append(mask_of(regions, "region_mask", regions["states"]))
        nothing_masked = "text_mask" not in text and "region_mask" not in regions and "tags" not in regions
        mask = None if nothing_masked else additive_mask(*masks, dtype=states[0].dtype)
        hidden: Tensor = self.bert.encoder(torch.cat(states, dim=1), attention_mask=mask)[0]
        return hidden
