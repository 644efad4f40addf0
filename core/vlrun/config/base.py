"""Base models for the options of components, as an experiment file sets them (this module imports no torch)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vlrun.config.roots import moved
from vlrun.config.run_reference import run_reference
from vlrun.errors import RequiredFile
from vlrun.foreign.printing import plain
from vlrun.interfaces.demo_provider import DemoFiles
from vlrun.interfaces.pictures import PictureShape

_LONGEST_NAME = 100
"""Bytes; two such names, and what is added to them, make a name of a file, which may have 255."""


def _check_file_name(name: str) -> str:
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise ValueError("it names files and folders, so it must not be empty, start with a dot, or hold a slash")
    if plain(name) != name:  # it also becomes a line of a batch script
        raise ValueError("it names files and folders, so it must not hold line breaks or other control characters")
    if (size := len(name.encode("utf-8", "replace"))) > _LONGEST_NAME:
        raise ValueError(
            f"it names files and folders, so it must not be longer than {_LONGEST_NAME} bytes; it has {size}"
        )
    return name


def _check_label(label: str) -> str:
    if "." in label:
        raise ValueError("it names a part of the network, so it must not hold a dot")
    return _check_file_name(label)


FileName = Annotated[str, AfterValidator(_check_file_name)]
"""A name that becomes part of a path, such as that of an experiment or a split."""


def _under_data_root(path: Path, info: ValidationInfo) -> Path:
    return moved(path, info.context or {})


DataPath = Annotated[Path, AfterValidator(_under_data_root)]
"""A path in an experiment file or a default; a relative one lies under the data root."""


def _file_or_run(path: Path, info: ValidationInfo) -> Path:
    return path if run_reference(path) is not None else _under_data_root(path, info)


WeightsPath = Annotated[Path, AfterValidator(_file_or_run)]
"""A file of weights, as ``DataPath``, or ``run:NAME``, which stays as it is until a run starts."""


Count = Annotated[int, Field(gt=0, le=1_000_000)]
"""A number of things for each of which there is a loop or memory: a slip of the pen must not hang or kill the run."""


class Config(BaseModel):
    """Base of all models of options and annotations: an unknown key is an error, and nothing changes after validation.

    Infinity and nan are none of its numbers. Defaults are validated like what a file says, so that a relative path
    among them lies under the data root, too.
    """

    # pydantic builds a model when it is first used: start-up declares many and validates few
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, validate_default=True, allow_inf_nan=False)


class NamedOptions(Config):
    """Options that depend on a choice, ``name``: each choice has its own defaults and refuses the options of others.

    Attributes:
        defaults: for each choice, the options that it takes, with their defaults.
    """

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]]

    name: str

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        defaults = cls.defaults.get(str(options.get("name", cls.model_fields["name"].default)), {})
        return {
            **defaults,
            **{key: value for key, value in options.items() if value is not None or key not in defaults},
        }

    @model_validator(mode="after")
    def _refuse_options_of_other_choices(self) -> Any:
        taken = self.defaults[self.name]
        for option in type(self).model_fields:
            if option != "name" and option not in taken and getattr(self, option) is not None:
                raise ValueError(f"'{self.name}' takes no option '{option}' (it takes: {', '.join(taken) or 'none'})")
        return self


class BackboneConfig(Config):
    """Options that every backbone has."""

    name: str
    weights: WeightsPath | None = Field(
        None,
        description="imported weights (.safetensors), or run:NAME, run:NAME@last: the best or last checkpoint of the "
        "newest finished run of an experiment, or of a run folder; null starts from random ones",
    )

    def pictures(self) -> PictureShape | None:
        """How this backbone wants pictures (``dataset.pictures``); None, the default: it reads region features."""
        return None

    def required_files(self) -> list[RequiredFile]:
        """The files that must exist before this backbone can be built."""
        if self.weights is None or run_reference(self.weights) is not None:
            return []
        remedy = "\n".join(self.weights_remedy())
        return [RequiredFile(self.weights, f"pre-trained weights of backbone '{self.name}'", remedy)]

    def weights_remedy(self) -> list[str]:
        """Lines that say what to do if the file ``weights`` is missing."""
        return [f"runner weights import --from FORMAT FILE {self.weights}"]

    @classmethod
    def options_of_weights(
        cls, shapes: Mapping[str, tuple[int, ...]], num_heads: int | None = None
    ) -> dict[str, Any] | None:
        """The option values of the network that weights of these shapes belong to; None where that cannot be said.

        Args:
            shapes: of the backbone's tensors, by name.
            num_heads: what the file's own configuration says; the shapes do not tell it.
        """
        return None

    def weights_problems(self, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, Any]) -> list[str]:
        """What the header of imported weights shows to be wrong for this backbone; by default nothing.

        Args:
            shapes: of all tensors, by name.
            metadata: what the import has recorded.
        """
        return []

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        """Option values with which this backbone runs quickly on the demo data."""
        return {"weights": None}


class DatasetConfig(Config):
    """Options that every dataset has.

    Attributes:
        demo_dataset: name of the dataset whose demo files this one reads; None if it has demo files itself.
        image_collection: collection that numbers the images, if their ids are bare numbers: ``visual-genome``,
            ``flickr`` or another name. An image is recognised within its collection, and in others by a table of image
            identities.
        known_splits: names that ``train`` and ``evaluate`` may use; empty if they may use any.
        pictures_from: which pictures, and where they are published, for a message; empty if nothing is known.
    """

    demo_dataset: ClassVar[str | None] = None
    image_collection: ClassVar[str | None] = None
    known_splits: ClassVar[tuple[str, ...]] = ()
    pictures_from: ClassVar[str] = ""

    name: str
    annotations: DataPath = Field(description="folder with one JSON-lines file per split, from `runner data build`")
    features: DataPath | None = Field(
        None, description="region-feature store, from `runner features build`: for backbones that read regions"
    )
    pictures: DataPath | None = Field(
        None,
        description="folder with the pictures, named by their image ids, also in folders below it, or an LMDB of them: "
        "for backbones that read pictures, and for the examples of the report",
    )
    train: list[FileName] = Field(["train"], description="splits to train on, concatenated in this order")
    evaluate: list[FileName] = Field(
        min_length=1,
        description="splits to evaluate at the end; the first also between epochs, to choose the best. If all "
        "of them are hidden, train.final_checkpoint must be last",
    )
    allow_missing_features: bool = Field(
        False, description="leave out examples whose images have no features; written into every score"
    )
    accept_other_features: bool = Field(
        False,
        description="start although the features are of another kind than those that the weights were trained on; "
        "written into every score",
    )
    limit: PositiveInt | None = Field(
        None,
        description="use only the first so many examples of each split, for a quick try; written into every score",
    )
    hide_images: bool = Field(
        False, description="show the model blank images: the baseline that reads text alone; written into every score"
    )

    @field_validator("train", "evaluate")
    @classmethod
    def _splits_are_known(cls, splits: list[str]) -> list[str]:
        for split in splits:
            if cls.known_splits and split not in cls.known_splits:
                near = difflib.get_close_matches(split, cls.known_splits, n=1)
                hint = f". Did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"there is no split '{split}' (known: {', '.join(cls.known_splits)}){hint}")
        return splits

    _unusable_sources: frozenset[str] = PrivateAttr(frozenset())

    @property
    def unusable_sources(self) -> frozenset[str]:
        """Sources that this dataset can be built from and that lack what its task needs."""
        return self._unusable_sources

    @property
    def feature_store(self) -> Path:
        """``features`` where regions are read, in an experiment that was checked."""
        assert self.features is not None, "an experiment is checked before anything is opened"
        return self.features

    def split_file(self, split: str) -> Path:
        """The annotation file of a split."""
        return self.annotations / f"{split}.jsonl"

    def required_files(self, *, pictures: bool = False) -> list[RequiredFile]:
        """The files that must exist before the splits in use can be read.

        Args:
            pictures: whether the backbone reads pictures instead of region features.
        """
        build = "\n".join(self.annotations_remedy())
        splits = list(dict.fromkeys([*self.train, *self.evaluate]))
        files = [RequiredFile(self.split_file(split), f"split '{split}' of {self.name}", build) for split in splits]
        images = self.pictures if pictures else self.features
        if images is None:
            return files
        kind = "pictures" if pictures else "region features"
        remedy = "\n".join(self.pictures_remedy() if pictures else self.features_remedy())
        return [*files, RequiredFile(images, f"{kind} of {self.name}", remedy)]

    def annotations_remedy(self) -> list[str]:
        """Lines that say what to download and which commands to run if annotations are missing."""
        return [f"runner data build {self.name} --from SOURCE PATH {self.annotations}"]

    def features_remedy(self) -> list[str]:
        """Lines that say the same about the region features."""
        return [self.features_command("FORMAT", "SOURCE")]

    def pictures_remedy(self) -> list[str]:
        """Lines that say the same about the pictures."""
        put = f"put JPEG or PNG files into {self.pictures} or folders in it, named by their image ids"
        return [f"get {self.pictures_from}, and {put}" if self.pictures_from else put]

    def features_command(self, feature_format: str, *sources: str, extractor: str = "", boxes: str = "") -> str:
        """The command that makes the store of files, for hints; with what made them, so that every run can compare."""
        origin = {"extractor": extractor, "boxes": boxes}
        options = "".join(f" --{name} {value}" for name, value in origin.items() if value)
        return f"runner features build --from {feature_format} {' '.join(sources)} {self.features}{options}"


class MetricConfig(Config):
    """Options that every metric has."""

    name: str


class TaskConfig(Config):
    """Options that every task has.

    Attributes:
        speed_options: names of those that change memory and speed alone, or check something, and change no number.
        needs_regions: whether it works on regions, so that no backbone fits that reads pictures.
    """

    speed_options: ClassVar[tuple[str, ...]] = ()
    needs_regions: ClassVar[bool] = False

    name: str
    label: Annotated[str, AfterValidator(_check_label)] | None = Field(
        None, description="what scores and files call this task, to tell two of the same name apart; null: its name"
    )
    dataset: SerializeAsAny[DatasetConfig]
    max_text_tokens: Count = Field(20, description="longest text in tokens, special tokens included")
    loss_weight: NonNegativeFloat = Field(1.0, description="factor on this task's losses")
    batch_size: Count | None = Field(None, description="examples per step of this task; null: train.batch_size")
    sampling_weight: NonNegativeFloat = Field(
        1.0, description="share of the steps, relative to the other tasks; for train.sampling.name=weights"
    )
    metrics: list[SerializeAsAny[MetricConfig]] | None = Field(
        None, description="metrics instead of the task's own protocol; null keeps that"
    )
    best_score: str | None = Field(
        None,
        min_length=1,
        description="score of the first evaluation split that chooses the best checkpoint, and that train.stop_and_go "
        "watches, such as 'consistency'; null: the first primary score",
    )

    @property
    def display_name(self) -> str:
        """What scores and files call this task: its label, or else its name."""
        return self.label or self.name

    def required_files(self) -> list[RequiredFile]:
        """The files that must exist before this task can be built, besides those of its dataset."""
        return []

    @property
    def needed_fields(self) -> tuple[str, ...]:
        """Fields of the annotations that this task cannot do without, though some sources lack them."""
        return ()

    def data_problems(self, splits: Sequence[str]) -> list[str]:
        """What the first lines of annotations show to be wrong with these splits, without torch; by default nothing."""
        return []

    def weights_problems(self, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, Any]) -> list[str]:
        """What the header of imported weights shows to be wrong for this task; by default nothing.

        Args:
            shapes: of all tensors, by name.
            metadata: what the import has recorded.
        """
        return []

    def demo_overrides(self) -> dict[str, Any]:
        """Option values with which this task runs on the demo data."""
        return {"batch_size": None}

    def demo_groups(self) -> list[dict[str, Any]]:
        """Parameter groups (``train.groups``) without which a demo is too short for this task; by default none."""
        return []


class _Chosen(Config):
    """Options of what is chosen by name. One that is null is as one that is not there: records of earlier versions have
    such options of other choices."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        return {key: value for key, value in options.items() if value is not None}


class OptimizerConfig(_Chosen):
    """Options that every optimiser has."""

    weight_decay: NonNegativeFloat = Field(0.0, description="of every parameter, unless train.groups says otherwise")


class ScheduleConfig(_Chosen):
    """Options that every schedule of the learning rate has; times are in epochs, so they hold for any batch size."""

    def epochs_problem(self, epochs: int) -> str | None:
        """What is wrong with the schedule for a training of so many epochs; None: nothing."""
        return None


class ReporterConfig(Config):
    """Options that every reporter has."""

    name: str
