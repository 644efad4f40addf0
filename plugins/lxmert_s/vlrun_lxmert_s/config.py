"""The options of the backbones ``lxmert-s`` and ``lxmert`` (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from vlrun import TransformerConfig


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


class TwoStreamConfig(TransformerConfig):
    """The options that both backbones have."""

    num_language_layers: NonNegativeInt | None = Field(None, description="layers that see the text alone")
    num_cross_layers: PositiveInt | None = Field(None, description="layers in which text and regions see each other")
    num_object_layers: NonNegativeInt | None = Field(None, description="layers that see the regions alone")

    def weights_remedy(self) -> list[str]:
        """Also the answers that make the answer head usable, and the way from BERT."""
        download, command = super().weights_remedy()
        return [
            download,
            f"{command} --answers all_ans.json",
            "(all_ans.json of the authors' data makes the answer head usable; it can be left out)",
            f"or start from BERT: runner weights import --from bert-{self.name} pytorch_model.bin {self.weights}",
        ]


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
