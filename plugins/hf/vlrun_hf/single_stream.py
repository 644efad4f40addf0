"""What networks of transformers with the shape of BERT share, and those of them with one stream over text and regions.

Shapes: P pairs, L tokens, R regions, H hidden size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding
from vlrun.blocks.tokenizer import TextTokenizer

MATCHING_HEAD = "seq_relationship"


def bert_options(tokenizer: TextTokenizer, sizes: Any, dropout: float) -> dict[str, Any]:
    """Options of a configuration of transformers that is like BERT's, but for its numbers of layers."""
    return {
        "vocab_size": tokenizer.size,
        "hidden_size": sizes.hidden_size,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.feed_forward_size,
        "max_position_embeddings": sizes.max_positions,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": tokenizer.pad_id,
    }


class SingleStream(Backbone):
    """A network whose layers see the text first, the regions last, and perhaps something in between."""

    wordpiece: TextTokenizer
    optional_weights = (MATCHING_HEAD,)
    seq_relationship: nn.Linear

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        hidden_size: int,
        max_positions: int,
        region_feature_size: int,
        num_regions: int,
    ) -> None:
        super().__init__()
        self.wordpiece, self.vocabulary_hash = tokenizer, tokenizer.hash
        self.hidden_size, self.max_positions = hidden_size, max_positions
        self.region_feature_size, self.num_regions = region_feature_size, num_regions

    @property
    @abstractmethod
    def trunk(self) -> Any:
        """The network of transformers."""

    @abstractmethod
    def encoded(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The hidden states after the last layer, (P, L + what is in between + R, H)."""

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), regions (P, R, H), pooled (P, H)."""
        hidden = self.encoded(self.text_part(encoding), self.region_part(encoding))
        return BackboneOutput(
            text=hidden[:, : encoding.token_ids.shape[1]],
            regions=hidden[:, hidden.shape[1] - encoding.region_mask.shape[1] :],
            pooled=self.trunk.pooler(hidden),
            text_mask=encoding.text_mask,
            region_mask=encoding.region_mask,
        )

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded tokens, (N, L, H)."""
        return {"states": self.trunk.embeddings(input_ids=encoding.token_ids), "text_mask": encoding.text_mask}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """All layers, for text and regions see each other from the first on."""
        pooled: Tensor = self.trunk.pooler(self.encoded(text, regions))
        return pooled

    def word_table(self) -> nn.Parameter:
        """The word embeddings."""
        table: nn.Parameter = self.trunk.embeddings.word_embeddings.weight
        return table

    def matching_head(self) -> nn.Module:
        """The authors' ``cls.seq_relationship``, with class 1 for a match."""
        return self.seq_relationship
