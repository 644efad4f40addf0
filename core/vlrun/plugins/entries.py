"""What a plugin declares: light records that name a component, its options and a function that builds it later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")


@dataclass(frozen=True)
class BuildReport:
    """What an annotation builder wrote: examples per split, and remarks worth printing."""

    counts: dict[str, int]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Builder:
    """Turns source files of one kind into the JSON-lines files that a dataset reads.

    Attributes:
        source: name of the source layout, as in ``runner data build DATASET --from SOURCE``.
        summary: what has to lie in the source folder, in one line.
        build: ``(source folder or file, output folder) -> BuildReport``; raises DataError.
    """

    source: str
    summary: str
    build: Callable[[Path, Path], BuildReport]


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One component that a plugin offers.

    Attributes:
        name: the name used in YAML.
        summary: one line, shown by ``runner list``.
        config: pydantic model of the options; its module must not import torch.
        build: makes the component from its validated config and imports what it needs when called. Datasets are
            built with ``build(config, split)``, everything else with ``build(config)``.
        target: tasks and datasets: the kind of target, such as ``"referent"``. A task fits the datasets of its kind.
        record: datasets: pydantic model of one line of its annotation files; the published schema.
        builders: datasets: how the official files become the files that training reads.
        obtain: where a user gets the source files; shown when they are missing.
    """

    name: str
    summary: str
    config: type[BaseModel]
    build: Callable[..., T]
    target: str | None = None
    record: type[BaseModel] | None = None
    builders: tuple[Builder, ...] = ()
    obtain: str = ""


@dataclass(frozen=True)
class WeightFormat:
    """Reads a foreign checkpoint layout; used by ``runner weights import --from NAME``.

    Attributes:
        name: the name of the layout, such as ``"rosita"``.
        backbone: name of the backbone that the result is for.
        summary: one line on the files it reads.
        translate: ``(content of the file) -> {our key: tensor}``; pure, raises CheckpointError.
        partial: whether such a file fills only a part of the backbone by design, as BERT's does. Loading then demands
            that all of the file is used, instead of that nearly all of the backbone is filled.
    """

    name: str
    backbone: str
    summary: str
    translate: Callable[[dict[str, Any]], dict[str, Any]]
    partial: bool = False


@dataclass(frozen=True)
class SubmissionRows:
    """What a submission file holds: example ids in its order, repeated ones too, and what is wrong with its rows."""

    ids: list[str]
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SubmissionFormat:
    """A file that an evaluation server takes; used by ``runner submit-check FILE --for NAME``.

    Attributes:
        name: dataset and phase, such as ``"vqav2-test-dev"``.
        dataset: name of the dataset whose annotations hold the expected ids.
        splits: the file must hold exactly the ids of one of these; the first is the usual one.
        summary: what the file looks like, in one line.
        read: ``(file) -> SubmissionRows``; raises DataError where it is no such file at all.
        official_ids: ``(official list of questions, as downloaded) -> ids``; raises DataError.
    """

    name: str
    dataset: str
    splits: tuple[str, ...]
    summary: str
    read: Callable[[Path], SubmissionRows]
    official_ids: Callable[[Path], list[str]]
