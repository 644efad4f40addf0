"""Whether the features of a run are of the kind that its weights were trained on, and whether it sees all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrun.data.splits import TaskData
from vlrun.errors import DataError
from vlrun.features.origin import FeatureOrigin, differences
from vlrun.features.pictures import ImageStore, PictureStore
from vlrun.features.store import RegionFeatureStore

MARK = "weights made for other features"
"""Under this name a score says it."""


@dataclass(frozen=True)
class FeatureCheck:
    """What was found.

    Attributes:
        marks: task -> what its scores must say; tasks with features of the right or of an unknown kind are not there.
        notes: lines for the header of the run.
    """

    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __add__(self, other: FeatureCheck) -> FeatureCheck:
        """Both together."""
        marks = {
            task: {**self.marks.get(task, {}), **other.marks.get(task, {})} for task in {*self.marks, *other.marks}
        }
        return FeatureCheck(marks, [*self.notes, *other.notes])


def check_features(data: Sequence[TaskData], weights: Path, metadata: Mapping[str, Any]) -> FeatureCheck:
    """Compares what made the features of each task with what made those that the weights were trained on.

    Where one side is unknown nothing is refused, and the header says that nothing was compared.

    Args:
        metadata: of the imported weights.

    Raises:
        DataError: they differ, and the experiment does not accept it.
    """
    if metadata.get("partial"):  # such weights fill the text side alone, as BERT's do
        return FeatureCheck()
    wanted = FeatureOrigin.from_json(metadata.get("features"))
    marks, notes, problems = {}, [], []
    for task in data:
        if isinstance(task.store, PictureStore):
            continue
        made = describe_kind(task.store)
        found = differences(stated_origin(task.store), _regions(task.store), wanted)
        if found is None:
            notes.append(f"features not compared: {task.name}: {made}; the weights' training: {wanted}")
        elif not found:
            notes.append(f"features: {task.name}: {made}, as the weights were trained on")
        elif task.config.dataset.accept_other_features:
            marks[task.name] = {MARK: f"trained on {wanted}; these are {made}"}
            notes.append(f"other features: {task.name}: {made}; the weights were trained on {wanted}")
        else:
            problems += [
                f"task '{task.name}': the features in {task.store.path} are {made}",
                f"    and {weights} was trained on {wanted}: they fit, and mean something else to the model.",
                *(f"    other {difference}" for difference in found),
                "    Take features of that kind, or set dataset.accept_other_features=true; every score then says it",
            ]
    if problems:
        raise DataError(problems)
    return FeatureCheck(marks, list(dict.fromkeys(notes)))


def check_cut_regions(data: Sequence[TaskData], num_regions: int) -> FeatureCheck:
    """How many regions of an image the model sees, for every score; a note where these are not all.

    A region that is cut can be no answer, so the scores of such runs are not those of runs with all regions.
    """
    most = {task.name: task.store.manifest.max_regions for task in data if isinstance(task.store, RegionFeatureStore)}
    cut = {
        name: f"the first {num_regions} of up to {number} of an image"
        for name, number in most.items()
        if number > num_regions
    }
    notes = [f"regions cut: {task}: the model sees {text} (backbone.num_regions)" for task, text in cut.items()]
    seen = {name: cut.get(name, f"all of an image, up to {number}") for name, number in most.items()}
    return FeatureCheck({task: {"regions": text} for task, text in seen.items()}, notes)


def stated_origin(store: ImageStore) -> FeatureOrigin:
    """What made the features of a store; nothing is known of pictures, which have none."""
    if isinstance(store, PictureStore):
        return FeatureOrigin()
    manifest = store.manifest
    return FeatureOrigin(manifest.extractor, manifest.extractor_weights, manifest.boxes)


def describe_kind(store: RegionFeatureStore) -> str:
    """What made the features of a store, and how many regions its images have, in words."""
    made, (fewest, most) = stated_origin(store), _regions(store)
    if made.boxes:
        return str(made)
    return f"{made}, {f'{fewest}' if fewest == most else f'{fewest} to {most}'} boxes"


def _regions(store: RegionFeatureStore) -> tuple[int, int]:
    return store.manifest.min_regions, store.manifest.max_regions
