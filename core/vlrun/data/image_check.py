"""Images that the data of a run share: scores are marked, and training is cleaned if the experiment asks for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vlrun.config.experiment import Experiment
from vlrun.data.declared import Declared, Split
from vlrun.data.identities import NAME, Identities, qualified, read_identities
from vlrun.data.leaks import SPELLINGS, describe_pairs, evaluation_images, find_leaks, meetings
from vlrun.data.splits import TaskData
from vlrun.errors import DataError
from vlrun.plugins.manager import Plugins

Place = tuple[str, str]
"""Label of a task, and an evaluation split of it."""


@dataclass(frozen=True)
class ImageCheck:
    """The result of comparing the images of a run.

    Attributes:
        data: the data of all tasks, cleaned if that is wanted.
        identities: the table in use, or none.
        marks: what the scores of a split must say.
        notes: lines for the header of the run.
    """

    data: Sequence[TaskData]
    identities: Identities
    marks: Mapping[Place, Mapping[str, str]]
    notes: Sequence[str]


def check_images(
    experiment: Experiment, data: Sequence[TaskData], pretraining: Sequence[str], plugins: Plugins
) -> ImageCheck:
    """Compares the images of training, evaluation and pre-training; cleans the training sets if that is wanted.

    The table of image identities is read only where images of several collections meet.

    Args:
        pretraining: what the imported weights have seen.

    Raises:
        DataError: the table is damaged, or nothing is left to train on.
    """
    evaluation = {
        (task_data.name, split): task_data.ids(split)
        for task_data in data
        for split in task_data.config.dataset.evaluate
    }
    pairs = meetings(_training(data), evaluation, pretraining)
    identities = _table(experiment) if any(pairs.values()) else SPELLINGS
    notes: list[str] = []
    if experiment.train.remove_evaluation_images:
        data, notes = _clean(data, evaluation, identities)
    lists = _lists(experiment, data, pretraining, identities, plugins)
    leaks = find_leaks(_training(data), evaluation, pretraining, identities=identities, lists=lists)
    marks: dict[Place, dict[str, str]] = {place: {} for place in evaluation}
    for leak in leaks:
        marks[leak.task, leak.split]["leak"] = leak.mark
    for place, met in pairs.items():
        if met:
            marks[place]["image identities"] = _said(met, identities)
    notes += [f"leak: {leak.line()}" for leak in leaks]
    return ImageCheck(data, identities, marks, [*notes, *_table_notes(experiment, pairs, identities)])


def _training(data: Sequence[TaskData]) -> dict[str, Collection[str]]:
    return {task_data.name: task_data.train_ids() for task_data in data if task_data.train is not None}


def _table(experiment: Experiment) -> Identities:
    path = experiment.identities_file
    wanted = experiment.image_identities is not None or path.exists()
    return read_identities(path) if wanted else SPELLINGS


def _clean(
    data: Sequence[TaskData], evaluation: Mapping[Place, Collection[str]], identities: Identities
) -> tuple[list[TaskData], list[str]]:
    """The data with no image of any evaluation split in any training set, and how many examples that costs."""
    unwanted = evaluation_images(evaluation.values(), identities)
    cleaned, notes = [], []
    for task_data in data:
        rest = task_data if task_data.train is None else task_data.without(unwanted, identities)
        cleaned.append(rest)
        if task_data.train is not None and rest.train is not None:
            before, left = len(task_data.train), len(rest.train)
            notes.append(f"cleaned: {task_data.name}: {before - left:,} of {before:,} training examples left out")
    return cleaned, notes


def _lists(
    experiment: Experiment,
    data: Sequence[TaskData],
    pretraining: Sequence[str],
    identities: Identities,
    plugins: Plugins,
) -> dict[Split, set[str]]:
    """Image keys of the splits that pre-training is declared to have seen, if this experiment's datasets have them."""
    keys: dict[Split, set[str]] = {}
    for dataset, split in sorted(Declared(pretraining).splits):
        for task in experiment.tasks:
            config = task.dataset
            if config.name == dataset and (dataset, split) not in keys and config.split_file(split).is_file():
                ids = plugins.find("dataset", dataset).build(config, split).image_ids()
                keys[dataset, split] = {identities.key(qualified(image, config.image_collection)) for image in ids}
    return keys


def _said(pairs: Collection[frozenset[str]], identities: Identities) -> str:
    """The table in use, and the collections that it cannot compare."""
    unchecked = [pair for pair in pairs if not pair <= identities.joined]
    table = [identities.label] if len(unchecked) < len(pairs) else []
    return "; ".join([*table, *([f"not checked between {describe_pairs(unchecked)}"] if unchecked else [])])


def _table_notes(
    experiment: Experiment, pairs: Mapping[Place, Collection[frozenset[str]]], identities: Identities
) -> list[str]:
    """The table in use, or how to get the one that is missing."""
    met = {pair for split_pairs in pairs.values() for pair in split_pairs}
    if identities.path is not None:
        return [f"image identities: {identities.path} ({identities.sha256[:12]})"]
    if not met or experiment.demo:  # nobody publishes the identities of drawn images
        return []
    return [
        f"image identities: images of {describe_pairs(met)} may be the same but are not compared, as there is no "
        f"{experiment.identities_file}; make it: runner data build {NAME} --from official FOLDER "
        f"{experiment.identities_file.parent}"
    ]


def recorded_identities(experiment: Experiment, recorded: Mapping[str, str] | None) -> Identities:
    """The table that a run has used, according to its ``data.json``.

    Raises:
        DataError: it is gone or has changed.
    """
    identities = _table(experiment) if recorded else SPELLINGS
    check_same_table(experiment, recorded, identities)
    return identities


def check_same_table(experiment: Experiment, recorded: Mapping[str, str] | None, identities: Identities) -> None:
    """Compares the table in use with that of the run's ``data.json``, where it decides what is trained on.

    Raises:
        DataError: it is gone, has changed, or was not there then.
    """
    before = (recorded or {}).get("sha256", "")
    if experiment.train.remove_evaluation_images and identities.sha256 != before:
        raise DataError(
            f"{experiment.identities_file}: the run was started with {_version(before)} of image identities, and now "
            f"there is {_version(identities.sha256)}. It decides which images training leaves out: restore what was "
            "there, or start a new run"
        )


def _version(sha256: str) -> str:
    return f"table {sha256[:12]}" if sha256 else "no table"
