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

    word_table: ClassVar[str] = "embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("encoder.x_layers.0.lang_inter.dense.weight", 0),
        "max_positions": ("embeddings.position_embeddings.weight", 0),
        "region_feature_size": ("encoder.visn_fc.visn_fc.weight", 1),
    }
    stacks: ClassVar[Mapping[str, str]] = {
        "num_language_layers": "encoder.layer",
        "num_cross_layers": "encoder.x_layers",
        "num_object_layers": "encoder.r_layers",
    }

    num_language_layers: NonNegativeInt | None = Field(None, le=1000, description="layers that see the text alone")
    num_cross_layers: PositiveInt | None = Field(
        None, le=1000, description="layers in which text and regions see each other"
    )
    num_object_layers: NonNegativeInt | None = Field(None, le=1000, description="layers that see the regions alone")

    def weights_remedy(self) -> list[str]:
        """Also the answers that make the answer head usable, and the way from BERT."""
        download, command = super().weights_remedy()
        return [
            download,
            f"{command} --answers LIST",
            "(LIST makes the answer head usable and can be left out: all_ans.json for a pre-trained file such as "
            f"{self.weights_file}, trainval_label2ans.json of data/vqa or data/gqa for one fine-tuned there, such as "
            "BEST.pth)",
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

    def weights_remedy(self) -> list[str]:
        """Also the same weights on the Hugging Face hub."""
        command = f"runner weights import --from hf-lxmert hf:unc-nlp/lxmert-base-uncased {self.weights}"
        return [*super().weights_remedy(), f"or from the Hugging Face hub (pip install 'vlrun[hub]'): {command}"]
