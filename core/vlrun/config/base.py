"""Base models for the options that a plugin's component takes from a YAML file (this module imports no torch)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vlrun.errors import RequiredFile
from vlrun.interfaces.demo_provider import DemoFiles


def _inside_its_folder(name: str) -> str:
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise ValueError("it names files and folders, so it must not be empty, start with a dot, or hold a slash")
    return name


FileName = Annotated[str, AfterValidator(_inside_its_folder)]
"""A name that becomes a part of paths, such as that of an experiment or a split."""


def _under_data_root(path: Path, info: ValidationInfo) -> Path:
    root = (info.context or {}).get("data_root")
    return path if root is None else Path(root) / path.expanduser()


DataPath = Annotated[Path, AfterValidator(_under_data_root)]
"""A path in an experiment file; relative ones lie under the data root."""


class Config(BaseModel):
    """Strict and frozen: an unknown key is an error, and nothing changes after validation."""

    # models are built when first used: start-up declares many and validates few
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class NamedOptions(Config):
    """One model for all choices of ``name``, each with its own defaults; what a choice does not take is refused."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]]

    name: str

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        chosen = cls.defaults.get(str(given.get("name", cls.model_fields["name"].default)), {})
        return {**chosen, **{key: value for key, value in given.items() if value is not None or key not in chosen}}

    @model_validator(mode="after")
    def _refuse_what_the_choice_ignores(self) -> Any:
        taken = self.defaults[self.name]
        for option in type(self).model_fields:
            if option != "name" and option not in taken and getattr(self, option) is not None:
                raise ValueError(f"'{self.name}' takes no option '{option}' (it takes: {', '.join(taken) or 'none'})")
        return self


class BackboneConfig(Config):
    """Options that every backbone has."""

    name: str
    weights: DataPath | None = Field(None, description="imported weights (.safetensors); null starts from random ones")

    def required_files(self) -> list[RequiredFile]:
        """What must exist before this backbone can be built."""
        if self.weights is None:
            return []
        remedy = "\n".join(self.weights_remedy())
        return [RequiredFile(self.weights, f"pre-trained weights of backbone '{self.name}'", remedy)]

    def weights_remedy(self) -> list[str]:
        """What to do where ``weights`` is not there, line by line."""
        return [f"runner weights import --from FORMAT FILE {self.weights}"]

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        """Option values with which this backbone runs on the demo data, quickly."""
        return {"weights": None}


class DatasetConfig(Config):
    """Options that every dataset has.

    Attributes:
        demo_dataset: name of the dataset whose demo files this one reads, where it is not its own.
        image_collection: whose numbers the ids of its images are, where they are bare numbers: ``visual-genome``,
            ``flickr``, or a name of its own. Only within one collection, and by a table of image identities, are images
            recognised.
        known_splits: names that ``train`` and ``evaluate`` may use; empty allows any.
    """

    demo_dataset: ClassVar[str | None] = None
    image_collection: ClassVar[str | None] = None
    known_splits: ClassVar[tuple[str, ...]] = ()

    name: str
    annotations: DataPath = Field(description="folder with one JSON-lines file per split, from `runner data build`")
    features: DataPath = Field(description="region-feature store, from `runner features build`")
    train: list[FileName] = Field(["train"], description="splits to train on, concatenated in this order")
    evaluate: list[FileName] = Field(
        min_length=1,
        description="splits to evaluate at the end; the first also between epochs, to choose the best. Hidden "
        "ones alone need train.final_checkpoint: last",
    )
    allow_missing_features: bool = Field(
        False, description="leave out examples whose images have no features; written into every score"
    )
    limit: PositiveInt | None = Field(
        None, description="only the first so many examples of each split, to try something; written into every score"
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

    def split_file(self, split: str) -> Path:
        return self.annotations / f"{split}.jsonl"

    def required_files(self) -> list[RequiredFile]:
        """What must exist before the splits in use can be read."""
        build, extract = "\n".join(self.annotations_remedy()), "\n".join(self.features_remedy())
        splits = list(dict.fromkeys([*self.train, *self.evaluate]))
        files = [RequiredFile(self.split_file(split), f"split '{split}' of {self.name}", build) for split in splits]
        return [*files, RequiredFile(self.features, f"region features of {self.name}", extract)]

    def annotations_remedy(self) -> list[str]:
        """What to download and which commands to run where annotations are not there, line by line."""
        return [f"runner data build {self.name} --from SOURCE PATH {self.annotations}"]

    def features_remedy(self) -> list[str]:
        """Likewise for the region features."""
        return [f"runner features build --from FORMAT SOURCE {self.features}"]


class MetricConfig(Config):
    """Options that every metric has."""

    name: str


class TaskConfig(Config):
    """Options that every task has."""

    name: str
    label: FileName | None = Field(
        None, description="what this task is called in scores and files, to tell two of one name apart; null: its name"
    )
    dataset: SerializeAsAny[DatasetConfig]
    max_text_tokens: PositiveInt = Field(20, description="longest text in tokens, special tokens included")
    loss_weight: NonNegativeFloat = Field(1.0, description="factor on this task's losses")
    batch_size: PositiveInt | None = Field(None, description="examples per step of this task; null: train.batch_size")
    sampling_weight: NonNegativeFloat = Field(
        1.0, description="share of the steps, relative to the other tasks; for train.sampling.name=weights"
    )
    metrics: list[SerializeAsAny[MetricConfig]] | None = Field(
        None, description="metrics instead of the task's own protocol; null keeps that"
    )

    @property
    def display_name(self) -> str:
        return self.label or self.name

    def required_files(self) -> list[RequiredFile]:
        """What must exist before this task can be built, beside its dataset."""
        return []

    def demo_overrides(self) -> dict[str, Any]:
        """Option values with which this task runs on the demo data."""
        return {"batch_size": None}


class ReporterConfig(Config):
    """Options that every reporter has."""

    name: str
