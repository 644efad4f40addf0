"""The options of the backbones (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, model_validator

from vlrun import PictureShape, TextTransformerConfig

_LONGER = 1333 / 800
"""ViLT's limit of the longer side, as a share of the shorter one (section 4.1 of Kim et al. 2021)."""


@dataclass(frozen=True)
class ViltSizes:
    """The numbers that a size of ViLT stands for."""

    hidden_size: int
    num_layers: int
    num_heads: int
    feed_forward_size: int
    max_positions: int
    image_size: int
    patch_size: int


class ViltConfig(TextTransformerConfig):
    """A single-stream encoder over [text tokens ; patches of the picture]."""

    known_sizes: ClassVar[Mapping[str, ViltSizes]] = {
        "base": ViltSizes(768, 12, 12, 3072, 40, 384, 32),  # ViLT-B/32 of the paper
        "tiny": ViltSizes(128, 2, 4, 512, 40, 96, 16),  # for tests and --demo
    }
    weights_file: ClassVar[str] = "hf:dandelin/vilt-b32-mlm"
    weights_page: ClassVar[str] = "https://huggingface.co/dandelin/vilt-b32-mlm"
    word_table: ClassVar[str] = "vilt.embeddings.text_embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("vilt.encoder.layer.0.intermediate.dense.weight", 0),
        "max_positions": ("vilt.embeddings.text_embeddings.position_embeddings.weight", 0),
        "patch_size": ("vilt.embeddings.patch_embeddings.projection.weight", 2),
    }
    stacks: ClassVar[Mapping[str, str]] = {"num_layers": "vilt.encoder.layer"}

    num_layers: PositiveInt | None = Field(None, description="layers; base has 12, tiny 2")
    image_size: PositiveInt | None = Field(
        None,
        description="shorter side of scaled pictures; the table of positions is for squares of this side",
    )
    patch_size: PositiveInt | None = Field(None, description="side of a patch in pixels")

    @model_validator(mode="after")
    def _patches_divide_the_picture(self) -> ViltConfig:
        if self.sizes.image_size % self.sizes.patch_size:
            raise ValueError(f"patch_size {self.sizes.patch_size} does not divide image_size {self.sizes.image_size}")
        return self

    def pictures(self) -> PictureShape:
        """Scaled as the authors do: the longer side is limited, both are multiples of a patch."""
        side = self.sizes.image_size
        return PictureShape(side, longer=int(_LONGER * side), multiple=self.sizes.patch_size)

    def weights_remedy(self) -> list[str]:
        """The command that imports them from the hub."""
        return [f"runner weights import --from {self.name} {self.weights_file} {self.weights}"]

    @classmethod
    def options_of_weights(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> dict[str, Any] | None:
        """Also the side of the square that the table of positions is for."""
        options = super().options_of_weights(shapes, num_heads)
        table = shapes.get("vilt.embeddings.position_embeddings")
        if options is None or table is None:
            return None
        return {**options, "image_size": isqrt(table[1] - 1) * options["patch_size"]}
