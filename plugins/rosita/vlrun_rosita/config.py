"""The options of the backbone ``rosita`` (this module imports no torch)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from vlrun import BackboneConfig, DataPath, DemoFiles, RequiredFile

VOCABULARY_URL = "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt"
WEIGHTS_PAGE = "https://github.com/MILVLG/rosita"


@dataclass(frozen=True)
class Sizes:
    """The numbers that a size stands for."""

    hidden_size: int
    num_layers: int
    num_heads: int
    feed_forward_size: int
    max_positions: int


SIZES = {
    "base": Sizes(768, 12, 12, 3072, 512),  # of the paper; the tables of bert-base-uncased
    "tiny": Sizes(128, 2, 4, 512, 64),  # for tests and --demo
}


class RositaConfig(BackboneConfig):
    """A single-stream encoder over [text tokens ; image regions]."""

    size: Literal["base", "tiny"] = Field("base", description="base: 12 layers of 768; tiny: 2 layers of 128")
    hidden_size: PositiveInt | None = Field(None, description="instead of the size's own; so the four below")
    num_layers: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    feed_forward_size: PositiveInt | None = None
    max_positions: PositiveInt | None = Field(None, description="rows of the position table: the longest text possible")
    region_feature_size: PositiveInt = Field(2048, description="width of the region features")
    num_regions: PositiveInt = Field(36, description="regions per image; fewer are padded, more are cut off")
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary: DataPath = Field(
        Path("vocab/bert-base-uncased.txt"), validate_default=True, description="WordPiece vocabulary, one token a line"
    )

    @property
    def sizes(self) -> Sizes:
        """The size's numbers, with those that are given in their place."""
        own = asdict(SIZES[self.size])
        return Sizes(**{name: getattr(self, name) or number for name, number in own.items()})

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> RositaConfig:
        if self.sizes.hidden_size % self.sizes.num_heads:
            raise ValueError(f"num_heads {self.sizes.num_heads} does not divide hidden_size {self.sizes.hidden_size}")
        return self

    def required_files(self) -> list[RequiredFile]:
        files = [
            RequiredFile(
                self.vocabulary,
                "WordPiece vocabulary of backbone 'rosita' (bert-base-uncased, 30,522 lines)",
                f"mkdir -p {self.vocabulary.parent} && curl -L -o {self.vocabulary} {VOCABULARY_URL}",
            )
        ]
        if self.weights is not None:
            remedy = (
                f"download rosita-base.pkl (links: {WEIGHTS_PAGE}), then\n"
                f"runner weights import --from rosita rosita-base.pkl {self.weights}"
            )
            files.append(RequiredFile(self.weights, "pre-trained weights of backbone 'rosita'", remedy))
        return files

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        return {
            **super().demo_overrides(files),
            "size": "tiny",
            **{field.name: None for field in fields(Sizes)},
            "vocabulary": str(files.vocabulary),
            "region_feature_size": files.region_feature_size,
            "num_regions": files.num_regions,
        }
