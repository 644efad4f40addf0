"""What the data of a run shares: training is cleaned of it where the experiment asks for that, scores are marked."""

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
    """What was found.

    Attributes:
        data: what was compared, cleaned if that is wanted.
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
        (of_task.name, split): of_task.ids(split) for of_task in data for split in of_task.config.dataset.evaluate
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
    return {of_task.name: of_task.train_ids() for of_task in data if of_task.train is not None}


def _table(experiment: Experiment) -> Identities:
    path = experiment.identities_file
    wanted = experiment.image_identities is not None or path.exists()
    return read_identities(path) if wanted else SPELLINGS


def _clean(
    data: Sequence[TaskData], evaluation: Mapping[Place, Collection[str]], identities: Identities
) -> tuple[list[TaskData], list[str]]:
    """The data without the images of all evaluation splits in any training, and how many examples that costs."""
    unwanted = evaluation_images(evaluation.values(), identities)
    cleaned, notes = [], []
    for own in data:
        rest = own if own.train is None else own.without(unwanted, identities)
        cleaned.append(rest)
        if own.train is not None and rest.train is not None:
            before, left = len(own.train), len(rest.train)
            notes.append(f"cleaned: {own.name}: {before - left:,} of {before:,} training examples left out")
    return cleaned, notes


def _lists(
    experiment: Experiment,
    data: Sequence[TaskData],
    pretraining: Sequence[str],
    identities: Identities,
    plugins: Plugins,
) -> dict[Split, set[str]]:
    """Keys of the images of those splits that decide what was seen, where this experiment's datasets have them."""
    found: dict[Split, set[str]] = {}
    for dataset, split in sorted(Declared(pretraining).splits):
        for task in experiment.tasks:
            config = task.dataset
            if config.name == dataset and (dataset, split) not in found and config.split_file(split).is_file():
                ids = plugins.find("dataset", dataset).build(config, split).image_ids()
                found[dataset, split] = {identities.key(qualified(image, config.image_collection)) for image in ids}
    return found


def _said(pairs: Collection[frozenset[str]], identities: Identities) -> str:
    """The table in use, and what it does not tell."""
    unchecked = [pair for pair in pairs if not pair <= identities.joined]
    table = [identities.label] if len(unchecked) < len(pairs) else []
    return "; ".join([*table, *([f"not checked between {describe_pairs(unchecked)}"] if unchecked else [])])


def _table_notes(
    experiment: Experiment, pairs: Mapping[Place, Collection[frozenset[str]]], identities: Identities
) -> list[str]:
    """How to get the table that is missing."""
    met = {pair for of_split in pairs.values() for pair in of_split}
    if identities.path is not None:
        return [f"image identities: {identities.path} ({identities.sha256[:12]})"]
    if not met or experiment.demo:  # nobody publishes the identities of drawn images
        return []
    return [
        f"image identities: images of {describe_pairs(met)} may be the same and are not compared, for there is no "
        f"{experiment.identities_file}; make it: runner data build {NAME} --from official FOLDER "
        f"{experiment.identities_file.parent}"
    ]


def recorded_identities(experiment: Experiment, recorded: Mapping[str, str] | None) -> Identities:
    """The table that a run has used, by what its ``data.json`` says.

    Raises:
        DataError: it is gone, or another one now.
    """
    identities = _table(experiment) if recorded else SPELLINGS
    check_same_table(experiment, recorded, identities)
    return identities


def check_same_table(experiment: Experiment, recorded: Mapping[str, str] | None, identities: Identities) -> None:
    """Compares the table in use with that of the run's ``data.json``, where it decides what is trained on.

    Raises:
        DataError: there was none, it is gone, or another one now.
    """
    before = (recorded or {}).get("sha256", "")
    if experiment.train.remove_evaluation_images and identities.sha256 != before:
        raise DataError(
            f"{experiment.identities_file}: the run was started with {_version(before)} of image identities and there "
            f"is {_version(identities.sha256)} now; it decides which images training leaves out. Put back what was "
            "there, or start a new run"
        )


def _version(sha256: str) -> str:
    return f"table {sha256[:12]}" if sha256 else "no table"
