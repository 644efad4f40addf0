"""The options of the backbones (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from vlrun import (
    DataPath,
    DemoFiles,
    PictureShape,
    RequiredFile,
    TextTransformerConfig,
    TransformerConfig,
    TransformerSizes,
)

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


_ANY_TOKENIZER = "WordPiece vocabulary, cased or not, or any tokenizer.json of the library tokenizers"


class _OnTheHub(TextTransformerConfig):
    """Backbones whose ``weights_file`` is a name on the Hugging Face hub."""

    def weights_remedy(self) -> list[str]:
        """The command that imports them from the hub."""
        return [f"runner weights import --from {self.name} {self.weights_file} {self.weights}"]


class ViltConfig(_OnTheHub):
    """A single-stream encoder over [text tokens ; patches of the picture]."""

    known_sizes: ClassVar[Mapping[str, ViltSizes]] = {
        "base": ViltSizes(768, 12, 12, 3072, 40, 384, 32),  # ViLT-B/32 of the paper
        "tiny": ViltSizes(128, 2, 4, 512, 40, 32, 8),  # for tests and --demo: 20 patches of most pictures
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
    any_tokenizer: ClassVar[bool] = True

    num_layers: PositiveInt | None = Field(None, le=1000, description="layers; base has 12, tiny 2")
    image_size: PositiveInt | None = Field(
        None,
        le=10_000,
        description="shorter side of scaled pictures; the table of positions is for squares of this side",
    )
    patch_size: PositiveInt | None = Field(None, le=10_000, description="side of a patch in pixels")
    mean_pixel: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="how light pictures are, from -1 for black to 1: where patches start that have no imported weights",
    )

    @model_validator(mode="after")
    def _patches_divide_the_picture(self) -> ViltConfig:
        if self.sizes.image_size % self.sizes.patch_size:
            raise ValueError(f"patch_size {self.sizes.patch_size} does not divide image_size {self.sizes.image_size}")
        return self

    def pictures(self) -> PictureShape:
        """Scaled as the authors do: the longer side is limited, both are multiples of a patch."""
        side = self.sizes.image_size
        return PictureShape(side, longer=int(_LONGER * side), multiple=self.sizes.patch_size)

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

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        """Also that pictures are drawn on a light ground, of which there is more than of anything else."""
        return {**super().demo_overrides(files), "mean_pixel": 0.7}


@dataclass(frozen=True)
class ClipSizes:
    """The numbers that a size of CLIP stands for; those without ``vision_`` or ``image_`` are of the text tower."""

    hidden_size: int
    num_layers: int
    num_heads: int
    feed_forward_size: int
    max_positions: int
    vision_hidden_size: int
    vision_layers: int
    vision_heads: int
    vision_feed_forward_size: int
    image_size: int
    patch_size: int
    projection_size: int


_HEAD_SIZE = 64
"""Of all published networks (clip/model.py of github.com/openai/CLIP)."""


class ClipConfig(_OnTheHub):
    """Two towers, whose vectors are compared."""

    known_sizes: ClassVar[Mapping[str, ClipSizes]] = {
        "base": ClipSizes(512, 12, 8, 2048, 77, 768, 12, 12, 3072, 224, 32, 512),  # ViT-B/32
        "large": ClipSizes(768, 12, 12, 3072, 77, 1024, 24, 16, 4096, 224, 14, 768),  # ViT-L/14
        "tiny": ClipSizes(128, 2, 4, 512, 77, 128, 2, 4, 512, 64, 16, 128),  # for tests and --demo
    }
    weights_file: ClassVar[str] = "hf:openai/clip-vit-base-patch32"
    weights_page: ClassVar[str] = "https://huggingface.co/openai/clip-vit-base-patch32"
    word_table: ClassVar[str] = "text_model.embeddings.token_embedding.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("text_model.encoder.layers.0.mlp.fc1.weight", 0),
        "max_positions": ("text_model.embeddings.position_embedding.weight", 0),
        "vision_hidden_size": ("vision_model.pre_layrnorm.weight", 0),
        "vision_feed_forward_size": ("vision_model.encoder.layers.0.mlp.fc1.weight", 0),
        "patch_size": ("vision_model.embeddings.patch_embedding.weight", 2),
        "projection_size": ("text_projection.weight", 0),
    }
    stacks: ClassVar[Mapping[str, str]] = {
        "num_layers": "text_model.encoder.layers",
        "vision_layers": "vision_model.encoder.layers",
    }
    any_tokenizer: ClassVar[bool] = True

    size: Literal["base", "large", "tiny"] = Field(
        "base", description="base: ViT-B/32; large: ViT-L/14; tiny: two layers 128 wide, for tests and --demo"
    )
    num_layers: PositiveInt | None = Field(None, description="of the text tower; base and large have 12, tiny 2")
    vision_hidden_size: PositiveInt | None = None
    vision_layers: PositiveInt | None = Field(None, description="of the image tower; base has 12, large 24, tiny 2")
    vision_heads: PositiveInt | None = None
    vision_feed_forward_size: PositiveInt | None = None
    image_size: PositiveInt | None = Field(None, description="side of the square in the middle of pictures")
    patch_size: PositiveInt | None = Field(None, description="side of a patch in pixels")
    projection_size: PositiveInt | None = Field(None, description="length of the vectors that are compared")
    activation: Literal["quick_gelu", "gelu"] = Field(
        "quick_gelu", description="of the feed-forward layers: OpenAI's networks have quick_gelu, LAION's gelu"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of attention; the published networks have none")
    vocabulary: DataPath = Field(
        Path("vocab/clip-vit-base-patch32/tokenizer.json"),
        validate_default=True,
        description=_ANY_TOKENIZER,
    )

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> ClipConfig:
        sizes = self.sizes
        for part, whole in (("patch_size", "image_size"), ("vision_heads", "vision_hidden_size")):
            if getattr(sizes, whole) % getattr(sizes, part):
                raise ValueError(f"{part} {getattr(sizes, part)} does not divide {whole} {getattr(sizes, whole)}")
        return self

    def pictures(self) -> PictureShape:
        """The square in the middle, after the shorter side is scaled to it."""
        return PictureShape(self.sizes.image_size, crop=True)

    def weights_remedy(self) -> list[str]:
        """The command that imports the authors' network of this size."""
        sizes, usual = self.sizes, self.known_sizes[self.size]
        side = "" if sizes.image_size == usual.image_size else f"-{sizes.image_size}"
        repository = f"hf:openai/clip-vit-{self.size}-patch{sizes.patch_size}{side}"
        return [f"runner weights import --from {self.name} {repository} {self.weights}"]

    def required_files(self) -> list[RequiredFile]:
        """Its own tokeniser, which is another one than BERT's, and the same for all sizes."""
        repository = self.weights_file.removeprefix("hf:")
        file = RequiredFile(
            self.vocabulary,
            f"tokeniser of backbone '{self.name}' (tokenizer.json of {repository})",
            f"hf download {repository} tokenizer.json --local-dir {self.vocabulary.parent}",
        )
        return [file, *super().required_files()[1:]]

    @classmethod
    def options_of_weights(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> dict[str, Any] | None:
        """Also the side of the picture, and the heads of the image tower."""
        options = super().options_of_weights(shapes, num_heads)
        table = shapes.get("vision_model.embeddings.position_embedding.weight")
        if options is None or table is None:
            return None
        side = isqrt(table[0] - 1) * options["patch_size"]
        return {**options, "vision_heads": cls.heads_at(options["vision_hidden_size"]), "image_size": side}

    @classmethod
    def heads_at(cls, hidden_size: int) -> int | None:
        """How many heads a tower of this width has: the tiny one 4, and others one for each 64."""
        tiny = cls.known_sizes["tiny"]
        return tiny.num_heads if hidden_size == tiny.hidden_size else max(1, hidden_size // _HEAD_SIZE)


class _RegionsConfig(TransformerConfig):
    """What the backbones of this plugin that read regions share."""

    known_sizes: ClassVar[Mapping[str, TransformerSizes]] = {
        "base": TransformerSizes(768, 12, 12, 3072, 512),  # bert-base
        "tiny": TransformerSizes(128, 2, 4, 512, 96),  # for tests and --demo
    }
    any_tokenizer: ClassVar[bool] = True

    vocabulary: DataPath = Field(Path("vocab/bert-base-uncased.txt"), validate_default=True, description=_ANY_TOKENIZER)


class VisualBertConfig(_OnTheHub, _RegionsConfig):
    """BERT over [text tokens ; regions]."""

    weights_file: ClassVar[str] = "hf:uclanlp/visualbert-vqa-coco-pre"
    weights_page: ClassVar[str] = "https://huggingface.co/uclanlp"
    word_table: ClassVar[str] = "visual_bert.embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("visual_bert.encoder.layer.0.intermediate.dense.weight", 0),
        "max_positions": ("visual_bert.embeddings.position_embeddings.weight", 0),
        "region_feature_size": ("visual_bert.embeddings.visual_projection.weight", 1),
    }
    stacks: ClassVar[Mapping[str, str]] = {"num_layers": "visual_bert.encoder.layer"}

    num_layers: PositiveInt | None = Field(None, description="layers; base has 12, tiny 2")


class OscarConfig(_RegionsConfig):
    """BERT over [text tokens ; object tags ; regions]."""

    weights_file: ClassVar[str] = "pytorch_model.bin"
    weights_page: ClassVar[str] = "https://github.com/microsoft/Oscar"
    word_table: ClassVar[str] = "bert.embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("bert.encoder.layer.0.intermediate.dense.weight", 0),
        "max_positions": ("bert.embeddings.position_embeddings.weight", 0),
    }
    stacks: ClassVar[Mapping[str, str]] = {"num_layers": "bert.encoder.layer"}
    box_numbers: ClassVar[int] = 6

    num_layers: PositiveInt | None = Field(None, description="layers; base has 12, tiny 2")
    num_regions: PositiveInt = Field(50, description="regions per image; fewer are padded, more are cut off")
    image_norm: bool = Field(False, description="a norm over embedded regions, as VinVL has (use_img_layernorm)")
    class_names: DataPath | None = Field(
        None,
        description="names of the detector's classes, a line each, by id, which are the object tags; null: no tags",
    )
    max_tag_tokens: PositiveInt = Field(50, description="longest row of tags in tokens, [SEP] included")

    def required_files(self) -> list[RequiredFile]:
        """Also the names of classes."""
        files = super().required_files()
        if self.class_names is not None:
            remedy = f"write {self.class_names}: the class names of the detector that made the features, a line each"
            files.append(RequiredFile(self.class_names, f"class names of backbone '{self.name}'", remedy))
        return files

    @classmethod
    def options_of_weights(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> dict[str, Any] | None:
        """Also the width of the features, and whether there is a norm over regions."""
        options = super().options_of_weights(shapes, num_heads)
        table = shapes.get("img_embedding.weight")
        if options is None or table is None:
            return None
        return {
            **options,
            "region_feature_size": table[1] - cls.box_numbers,
            "image_norm": "img_norm.weight" in shapes,
        }

    @property
    def input_sizes(self) -> dict[str, Any]:
        """Also whether there is a norm."""
        return {**super().input_sizes, "image_norm": self.image_norm}

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        """With tags, where the demo data name the classes of their regions."""
        names = None if files.class_names is None else str(files.class_names)
        return {**super().demo_overrides(files), "class_names": names}


@dataclass(frozen=True)
class LxmertSizes:
    """The numbers that a size of LXMERT stands for."""

    hidden_size: int
    num_heads: int
    feed_forward_size: int
    num_language_layers: int
    num_cross_layers: int
    num_object_layers: int
    max_positions: int


class TransformersLxmertConfig(_OnTheHub, _RegionsConfig):
    """Language layers and object layers, then cross-modal ones."""

    known_sizes: ClassVar[Mapping[str, LxmertSizes]] = {  # type: ignore[assignment]
        "base": LxmertSizes(768, 12, 3072, 9, 5, 5, 512),
        "tiny": LxmertSizes(128, 4, 512, 1, 2, 1, 64),
    }
    weights_file: ClassVar[str] = "hf:unc-nlp/lxmert-base-uncased"
    weights_page: ClassVar[str] = "https://huggingface.co/unc-nlp/lxmert-base-uncased"
    word_table: ClassVar[str] = "lxmert.embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("lxmert.encoder.x_layers.0.lang_inter.dense.weight", 0),
        "max_positions": ("lxmert.embeddings.position_embeddings.weight", 0),
        "region_feature_size": ("lxmert.encoder.visn_fc.visn_fc.weight", 1),
    }
    stacks: ClassVar[Mapping[str, str]] = {
        "num_language_layers": "lxmert.encoder.layer",
        "num_cross_layers": "lxmert.encoder.x_layers",
        "num_object_layers": "lxmert.encoder.r_layers",
    }

    num_language_layers: PositiveInt | None = Field(None, description="layers that see the text alone")
    num_cross_layers: PositiveInt | None = Field(None, description="layers in which text and regions see each other")
    num_object_layers: PositiveInt | None = Field(None, description="layers that see the regions alone")
