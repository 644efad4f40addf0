"""What an experiment needs under its data root, and which published files it can be made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vlrun.config.base import BackboneConfig, DatasetConfig, TaskConfig
from vlrun.config.experiment import Experiment
from vlrun.config.inputs import required_files
from vlrun.errors import RequiredFile
from vlrun.plugins.downloads import KINDS, Download

OTHER = "other"
_FOLDERS = {"vocabulary": "vocab", "annotations": "annotations", "features": "features", "weights": "weights"}
"""Where the shipped experiments have them under the data root."""


@dataclass(frozen=True)
class Need:
    """One thing that has to be there: the annotations of a dataset, a feature store, a file.

    Attributes:
        kind: of a download, or ``other`` where no download can make it.
        makes: what downloads call it.
        target: the file or folder.
        files: all that has to be there; empty where anything that can be made is welcome.
        dataset: place of the dataset in the experiment, such as ``tasks.0.dataset``.
        unusable: sources of annotations that lack what the task needs, and so are no use.
    """

    kind: str
    makes: str
    target: Path
    files: tuple[RequiredFile, ...] = ()
    dataset: str = ""
    unusable: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[RequiredFile]:
        """What is not there."""
        return [file for file in self.files if not file.path.exists()]

    @property
    def is_there(self) -> bool:
        """Whether nothing is left to do."""
        return not self.missing if self.files else self.target.exists()

    @property
    def splits_there(self) -> list[str]:
        """The splits of annotations that are there, asked for or not."""
        return sorted(path.stem for path in self.target.glob("*.jsonl")) if self.kind == "annotations" else []

    def fitting(self, downloads: Mapping[str, Download]) -> list[Download]:
        """What it can be made of."""
        return [item for item in self._making(downloads) if item.source not in self.unusable]

    def useless(self, downloads: Mapping[str, Download]) -> list[Download]:
        """What it could be made of, were it not for what the task needs."""
        return [item for item in self._making(downloads) if item.source in self.unusable]

    def _making(self, downloads: Mapping[str, Download]) -> list[Download]:
        return [item for item in downloads.values() if (item.kind, item.makes) == (self.kind, self.makes)]


def needs_of(experiment: Experiment) -> list[Need]:
    """All that an experiment needs, each once, what is quick to get first."""
    found: dict[tuple[str, Path], Need] = {}
    for need in _needs(experiment):
        known = found.setdefault((need.kind, need.target), need)
        files = {file.path: file for file in (*known.files, *need.files)}
        unusable = known.unusable | need.unusable
        found[need.kind, need.target] = replace(known, files=tuple(files.values()), unusable=unusable)
    covered = {file.path for need in found.values() for file in need.files}
    for file in experiment.missing_files():  # what no part asks for, such as a table of image identities
        if file.path not in covered:
            found[OTHER, file.path] = Need(OTHER, file.path.name, file.path, (file,))
    order = (*KINDS, OTHER)
    return sorted(found.values(), key=lambda need: order.index(need.kind))


def _needs(experiment: Experiment) -> Iterator[Need]:
    parts: list[tuple[BackboneConfig | DatasetConfig | TaskConfig, TaskConfig | None, str]] = [
        (experiment.backbone, None, "")
    ]
    for index, task in enumerate(experiment.tasks):
        parts += [(task.dataset, task, f"tasks.{index}.dataset"), (task, task, f"tasks.{index}.dataset")]
    places = {id(part): (of_task, place) for part, of_task, place in parts}
    for part, file in required_files([part for part, *_ in parts]):
        yield _need(file, experiment.backbone, *places[id(part)])


def _need(file: RequiredFile, backbone: BackboneConfig, task: TaskConfig | None, place: str) -> Need:
    if task is None:
        kind = "weights" if file.path == backbone.weights else "vocabulary"
        return Need(kind, file.path.name, file.path, (file,))
    if file.path == task.dataset.features:
        return Need("features", file.path.name, file.path, (file,), place)
    if file.path.parent == task.dataset.annotations:
        unusable = task.dataset.unusable_sources
        return Need("annotations", task.dataset.name, file.path.parent, (file,), place, unusable)
    return Need(OTHER, file.path.name, file.path, (file,), place)


def possible_needs(downloads: Iterable[Download], data_root: Path) -> list[Need]:
    """All that any of ``downloads`` makes, where the shipped experiments expect it."""
    made = dict.fromkeys((item.kind, item.makes) for item in downloads)
    needs = [Need(kind, makes, data_root / _FOLDERS[kind] / makes) for kind, makes in made]
    return sorted(needs, key=lambda need: KINDS.index(need.kind))
