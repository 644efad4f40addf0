"""The options of the backbone ``rosita`` (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field, PositiveInt

from vlrun import TransformerConfig


@dataclass(frozen=True)
class Sizes:
    """The numbers that a size stands for."""

    hidden_size: int
    num_layers: int
    num_heads: int
    feed_forward_size: int
    max_positions: int


class RositaConfig(TransformerConfig):
    """A single-stream encoder over [text tokens ; image regions]."""

    known_sizes: ClassVar[Mapping[str, Sizes]] = {
        "base": Sizes(768, 12, 12, 3072, 512),  # of the paper; the tables of bert-base-uncased
        "tiny": Sizes(128, 2, 4, 512, 64),  # for tests and --demo
    }
    weights_file: ClassVar[str] = "rosita-base.pkl"
    weights_page: ClassVar[str] = "https://github.com/MILVLG/rosita"
    word_table: ClassVar[str] = "text_embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("backbone.layers.0.ffn.dense0.weight", 0),
        "max_positions": ("text_embeddings.position_embeddings.weight", 0),
        "region_feature_size": ("visual_embeddings.dense_imgfeat.weight", 1),
    }
    stacks: ClassVar[Mapping[str, str]] = {"num_layers": "backbone.layers"}

    num_layers: PositiveInt | None = Field(None, description="layers; base has 12, tiny 2")

    def weights_remedy(self) -> list[str]:
        """Also the start of the authors' pre-training."""
        command = f"runner weights import --from bert-rosita hf:google-bert/bert-base-uncased {self.weights}"
        start = "or start from BERT, as pre-training does (their bert-base.pkl, or with pip install 'vlrun[hub]')"
        return [*super().weights_remedy(), f"{start}: {command}"]
