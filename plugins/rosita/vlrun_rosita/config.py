"""The options of the backbone ``rosita`` (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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

    num_layers: PositiveInt | None = Field(None, description="layers; base has 12, tiny 2")

    @classmethod
    def options_of_weights(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> dict[str, Any] | None:
        """The sizes of all layers; None if the tensors are no whole trunk, or its heads are unknown."""
        try:
            hidden_size = shapes[cls.word_table][1]
            if (heads := num_heads or cls.heads_at(hidden_size)) is None:
                return None
            return {
                "hidden_size": hidden_size,
                "num_layers": cls.layers_in(shapes, "backbone.layers"),
                "num_heads": heads,
                "feed_forward_size": shapes["backbone.layers.0.ffn.dense0.weight"][0],
                "max_positions": shapes["text_embeddings.position_embeddings.weight"][0],
                "region_feature_size": shapes["visual_embeddings.dense_imgfeat.weight"][1],
            }
        except KeyError:
            return None
