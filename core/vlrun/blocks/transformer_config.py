"""The options of transformers over word pieces and region features or pictures (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vlrun.config.base import BackboneConfig, Count, DataPath
from vlrun.errors import RequiredFile
from vlrun.interfaces.demo_provider import DemoFiles

VOCABULARY_URL = "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt"


class TextTransformerConfig(BackboneConfig):
    """Options of backbones that are a transformer with BERT's vocabulary, whatever they see of images.

    Attributes:
        known_sizes: the numbers behind each name in ``size``: a dataclass with a field for each option that is a size.
        weights_file: name of the authors' file of pre-trained weights.
        weights_page: where the authors say how to get it.
        word_table: name of the tensor with a row for each token, hidden size wide; empty if there is none to be found.
        shown_by: option -> tensor of the weights and its axis that is as long as the option says.
        stacks: option -> beginning of the names of the layers that it counts, such as ``encoder.layer``.
        any_tokenizer: whether the backbone takes every tokeniser that ``read_tokenizer`` does, or uncased word pieces.
    """

    known_sizes: ClassVar[Mapping[str, Any]]
    weights_file: ClassVar[str]
    weights_page: ClassVar[str]
    word_table: ClassVar[str] = ""
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {}
    stacks: ClassVar[Mapping[str, str]] = {}
    any_tokenizer: ClassVar[bool] = False

    size: Literal["base", "tiny"] = Field(
        "base", description="base: layers 768 wide, as in the paper; tiny: a few layers 128 wide, for tests and --demo"
    )
    hidden_size: Count | None = Field(
        None, description="null: the number of the size; this is so for all options with the default null"
    )
    num_heads: Count | None = None
    feed_forward_size: Count | None = None
    max_positions: Count | None = Field(None, description="rows of the position table: the longest text possible")
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary: DataPath = Field(
        Path("vocab/bert-base-uncased.txt"),
        description="WordPiece vocabulary, uncased: one token a line, or a tokenizer.json",
    )

    @property
    def sizes(self) -> Any:
        """The numbers of ``size``, replaced by the options that are set."""
        numbers = self.known_sizes[self.size]
        options = {field.name: getattr(self, field.name) for field in fields(numbers)}
        return replace(numbers, **{name: number for name, number in options.items() if number is not None})

    @property
    def input_sizes(self) -> dict[str, int]:
        """Options that are sizes too, but of what the network reads."""
        return {}

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> TextTransformerConfig:
        if self.sizes.hidden_size % self.sizes.num_heads:
            raise ValueError(f"num_heads {self.sizes.num_heads} does not divide hidden_size {self.sizes.hidden_size}")
        return self

    def required_files(self) -> list[RequiredFile]:
        """The vocabulary, and the weights if the experiment names some."""
        vocabulary = RequiredFile(
            self.vocabulary,
            f"WordPiece vocabulary of backbone '{self.name}' (bert-base-uncased, 30,522 lines)",
            f"mkdir -p {self.vocabulary.parent} && curl -L -o {self.vocabulary} {VOCABULARY_URL}",
        )
        return [vocabulary, *super().required_files()]

    def weights_remedy(self) -> list[str]:
        """Lines that say where the authors' file is and how to import it."""
        return [
            f"download {self.weights_file} (links: {self.weights_page}), then",
            f"runner weights import --from {self.name} {self.weights_file} {self.weights}",
        ]

    def weights_problems(self, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, Any]) -> list[str]:
        """Weights of another backbone, or of a network of another size."""
        ours = {**asdict(self.sizes), **self.input_sizes}
        theirs = self._options_of(shapes, bool(metadata.get("partial")))
        made_for = metadata.get("backbone", self.name)
        if theirs is None:
            other = f"imported for backbone '{made_for}', and the experiment has '{self.name}'; import others, or set"
            return [f"{other} backbone.name={made_for}"] if made_for != self.name else []
        different = {name: theirs[name] for name in ours if name in theirs and theirs[name] != ours[name]}
        if not different:
            return []
        which = f" (they were imported for backbone '{made_for}')" if made_for != self.name else ""
        listed = ", ".join(f"{name} {number} and not {ours[name]}" for name, number in different.items())
        return [f"they are of a network with {listed}{which}; {self._how_to_fit(theirs, different)}"]

    def _options_of(self, shapes: Mapping[str, Sequence[int]], partial: bool) -> dict[str, Any] | None:
        """The sizes of the network that the tensors are of, as far as they tell; None if it is another network."""
        if not partial:
            return self.options_of_weights({name: tuple(shape) for name, shape in shapes.items()}, self.sizes.num_heads)
        table = shapes.get(self.word_table)
        return {} if table is None else {"hidden_size": table[1]}

    def _how_to_fit(self, theirs: Mapping[str, Any], different: Mapping[str, Any]) -> str:
        """The options to set: a known size, or the numbers themselves."""
        for size, numbers in self.known_sizes.items():
            known = {**asdict(numbers), **self.input_sizes}
            if size != self.size and all(known.get(name) == number for name, number in theirs.items()):
                return f"import others, or set backbone.size={size}"
        options = " ".join(f"backbone.{name}={number}" for name, number in different.items())
        return f"import others, or set {options}"

    @classmethod
    def options_of_weights(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> dict[str, Any] | None:
        """The sizes of all layers; None if the tensors are no whole network, or its heads are unknown."""
        if not cls.stacks:
            return None
        try:
            hidden_size = shapes[cls.word_table][1]
            shown = {option: shapes[tensor][axis] for option, (tensor, axis) in cls.shown_by.items()}
        except KeyError:
            return None
        if (heads := num_heads or cls.heads_at(hidden_size)) is None:
            return None
        layers = {option: cls.layers_in(shapes, stack) for option, stack in cls.stacks.items()}
        return {"hidden_size": hidden_size, "num_heads": heads, **shown, **layers}

    @classmethod
    def heads_at(cls, hidden_size: int) -> int | None:
        """How many heads the known size of this width has, for no tensor tells; None if there is none so wide."""
        return next((sizes.num_heads for sizes in cls.known_sizes.values() if sizes.hidden_size == hidden_size), None)

    @staticmethod
    def layers_in(names: Iterable[str], stack: str) -> int:
        """How many numbered layers a stack such as ``encoder.layer`` has, by the names of the tensors."""
        numbers = (name.removeprefix(f"{stack}.").split(".")[0] for name in names if name.startswith(f"{stack}."))
        return max((int(number) + 1 for number in numbers), default=0)

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        """Option values that select the tiny size, and the vocabulary of the demo data."""
        return {
            **super().demo_overrides(files),
            "size": "tiny",
            **{field.name: None for field in fields(cls.known_sizes["tiny"])},
            "vocabulary": str(files.vocabulary),
        }


class TransformerConfig(TextTransformerConfig):
    """Options of such backbones that read region features."""

    region_feature_size: Count = Field(2048, description="width of the region features")
    num_regions: Count = Field(36, description="regions per image; fewer are padded, more are cut off")

    @property
    def input_sizes(self) -> dict[str, int]:
        """The width of the region features."""
        return {"region_feature_size": self.region_feature_size}

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        """Also the features of the demo data."""
        return {
            **super().demo_overrides(files),
            "region_feature_size": files.region_feature_size,
            "num_regions": files.num_regions,
        }


@dataclass(frozen=True)
class TransformerSizes:
    """The numbers that a size of a single-stream transformer stands for."""

    hidden_size: int
    num_layers: int
    num_heads: int
    feed_forward_size: int
    max_positions: int


class SingleStreamConfig(TransformerConfig):
    """Options of an encoder over [text tokens ; image regions] with the sizes of bert-base-uncased."""

    known_sizes: ClassVar[Mapping[str, TransformerSizes]] = {
        "base": TransformerSizes(768, 12, 12, 3072, 512),
        "tiny": TransformerSizes(128, 2, 4, 512, 64),  # for tests and --demo
    }

    num_layers: Count | None = Field(None, le=1000, description="layers; base has 12, tiny 2")
