"""The options of the backbones ``lxmert-s`` and ``lxmert`` (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from vlrun import BackboneConfig, DataPath, DemoFiles, RequiredFile

VOCABULARY_URL = "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt"


@dataclass(frozen=True)
class Sizes:
    """The numbers that a size stands for."""

    hidden_size: int
    num_heads: int
    feed_forward_size: int
    num_language_layers: int
    num_cross_layers: int
    num_object_layers: int
    max_positions: int


class TwoStreamConfig(BackboneConfig):
    """The options that both backbones have.

    Attributes:
        known_sizes: what the names in ``size`` stand for.
        weights_file: the authors' file of pre-trained weights; weights_page: where they say how to get it.
    """

    known_sizes: ClassVar[Mapping[str, Sizes]]
    weights_file: ClassVar[str]
    weights_page: ClassVar[str]

    size: Literal["base", "tiny"] = Field(
        "base", description="base: layers of 768 as in the paper; tiny: a few layers of 128, for tests and --demo"
    )
    hidden_size: PositiveInt | None = Field(None, description="instead of the size's own; so the six below")
    num_heads: PositiveInt | None = None
    feed_forward_size: PositiveInt | None = None
    num_language_layers: NonNegativeInt | None = Field(None, description="layers that see the text alone")
    num_cross_layers: PositiveInt | None = Field(None, description="layers in which text and regions see each other")
    num_object_layers: NonNegativeInt | None = Field(None, description="layers that see the regions alone")
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
        own = asdict(self.known_sizes[self.size])
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        return Sizes(**{**own, **given})

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> TwoStreamConfig:
        if self.sizes.hidden_size % self.sizes.num_heads:
            raise ValueError(f"num_heads {self.sizes.num_heads} does not divide hidden_size {self.sizes.hidden_size}")
        return self

    def required_files(self) -> list[RequiredFile]:
        files = [
            RequiredFile(
                self.vocabulary,
                f"WordPiece vocabulary of backbone '{self.name}' (bert-base-uncased, 30,522 lines)",
                f"mkdir -p {self.vocabulary.parent} && curl -L -o {self.vocabulary} {VOCABULARY_URL}",
            )
        ]
        if self.weights is not None:
            remedy = (
                f"download {self.weights_file} (links: {self.weights_page}), then\n"
                f"runner weights import --from {self.name} {self.weights_file} {self.weights} --answers all_ans.json\n"
                "(all_ans.json of the authors' data makes the answer head usable; it can be left out)\n"
                f"or start from BERT: runner weights import --from bert-{self.name} pytorch_model.bin {self.weights}"
            )
            files.append(RequiredFile(self.weights, f"pre-trained weights of backbone '{self.name}'", remedy))
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


class LxmertSConfig(TwoStreamConfig):
    """Five cross-modal layers and nothing before them."""

    known_sizes: ClassVar[Mapping[str, Sizes]] = {
        "base": Sizes(768, 12, 3072, 0, 5, 0, 512),  # of the paper; the tables of bert-base-uncased
        "tiny": Sizes(128, 4, 512, 0, 2, 0, 64),  # for tests and --demo
    }
    weights_file: ClassVar[str] = "mode_LXRT.bin"
    weights_page: ClassVar[str] = "https://github.com/lttsmn/LXMERT-S"


class LxmertConfig(TwoStreamConfig):
    """Nine language layers and five object layers, then five cross-modal ones."""

    known_sizes: ClassVar[Mapping[str, Sizes]] = {
        "base": Sizes(768, 12, 3072, 9, 5, 5, 512),
        "tiny": Sizes(128, 4, 512, 1, 2, 1, 64),
    }
    weights_file: ClassVar[str] = "model_LXRT.pth"
    weights_page: ClassVar[str] = "https://github.com/airsplay/lxmert"
