"""``runner weights export``: the backbone of one of our runs becomes imported weights that other runs start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlrun.blocks.transformer_config import TextTransformerConfig
from vlrun.config.base import BackboneConfig, TaskConfig
from vlrun.config.experiment import Experiment
from vlrun.data.feature_check import stated_origin
from vlrun.data.identities import qualified
from vlrun.data.image_check import recorded_identities
from vlrun.data.leaks import evaluation_images
from vlrun.data.splits import open_images
from vlrun.engine.checkpoints import MODEL, Checkpoints
from vlrun.engine.forward_check import described
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import ImportReport, check_suffix, read_imported, write_imported
from vlrun.engine.weights import is_in
from vlrun.errors import CheckpointError, DataError
from vlrun.features.origin import UNKNOWN, FeatureOrigin
from vlrun.files import sha256_of
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.dataset import Dataset
from vlrun.plugins.manager import Plugins

FORMAT = "run"
"""The format name of weights that were exported from a run."""

_BACKBONE, _HEADS = "backbone.", "heads."


def export_weights(
    folder: RunFolder,
    experiment: Experiment,
    out: Path,
    plugins: Plugins,
    checkpoint: str = "best",
    *,
    averaged: bool = True,
) -> ImportReport:
    """Writes the backbone and the heads of a checkpoint to ``out`` (.safetensors), as ``import_weights`` does.

    An optional part of the backbone, such as its matching head, is exported if a task of the run has trained it. Heads
    of tasks go by the neutral names of ``Task.named_heads``; those that have none stay behind, and those that several
    tasks of the run have. The training images, and those that the run's initial weights had seen, are recorded by id,
    for the leak check.

    Args:
        experiment: that of the run's ``config.yaml``.
        checkpoint: ``best``, ``last``, or the path of a checkpoint folder.
        averaged: whether the average is wanted where the run keeps one, or the weights that were trained.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or the run's initial weights are gone.
        DataError: the training annotations are gone or have changed since the run.
    """
    check_suffix(out)
    chosen = Checkpoints(folder.checkpoints, model_only=averaged).choose(checkpoint)
    weights = chosen.path / MODEL if averaged else chosen.trained
    entry = plugins.find("backbone", experiment.backbone.name)
    backbone: Backbone = entry.build(experiment.backbone)
    named = chosen.named_heads()
    counts = Counter(head["name"] for head in named)
    heads = {head["name"]: head for head in named if counts[head["name"]] == 1}
    modules = {name: head["module"] for name, head in heads.items()}
    tensors, left_behind = _exported(weights, backbone.optional_weights, modules)
    inherited = _inherited(experiment)
    metadata: dict[str, Any] = {
        "backbone": experiment.backbone.name,
        "format": FORMAT,
        "source": f"{experiment.name}/{folder.path.name}, step {chosen.progress.step}"
        + ("" if averaged else ", without the average"),
        "source_sha256": sha256_of(weights),
        "vocabulary_hash": chosen.progress.identity.get("vocabulary"),
        "licence": inherited.get("licence", ""),
        "pretraining_sets": [*inherited.get("pretraining_sets", []), *_trained_on(folder, experiment, plugins)],
        "features": _features(experiment, inherited).as_json(),
        "partial": False,
        "heads": {name: head["meaning"] for name, head in heads.items()},
        **described(entry, tensors, _num_heads(experiment.backbone)),
    }
    return write_imported(out, tensors, metadata, left_behind)


def _exported(path: Path, optional: Sequence[str], heads: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's tensors under its own names, those of ``heads`` under theirs; and what each part keeps back.

    A tensor with several names was written under one of them; the header maps the others to it. So exactly those parts
    of the backbone that the head of a task uses have a name among the heads, too; they are exported with the backbone.

    Args:
        heads: neutral name -> name of its module in the model.
    """
    with _opened(path) as file:
        homes = {name: name for name in file.keys()}  # noqa: SIM118
        homes |= {name: home for name, home in (file.metadata() or {}).items() if home in homes}
        used = {home for name, home in homes.items() if name.startswith(_HEADS)}
        ours = {
            name.removeprefix(_BACKBONE): home
            for name, home in homes.items()
            if name.startswith(_BACKBONE) and (home in used or not is_in(name.removeprefix(_BACKBONE), optional))
        }
        of_backbone = set(ours.values())
        for neutral, module in heads.items():
            own = {name: home for name, home in homes.items() if is_in(name, [module]) and home not in of_backbone}
            ours |= {f"{neutral}.{name.removeprefix(f'{module}.')}": home for name, home in own.items()}
        tensors = {name: file.get_tensor(home).clone() for name, home in ours.items()}
    taken = set(ours.values())
    others = Counter(".".join(name.split(".")[:2]) for name, home in homes.items() if home not in taken)
    return tensors, [f"{head} ({count} tensors)" for head, count in others.items()]


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _num_heads(config: BackboneConfig) -> int | None:
    return config.sizes.num_heads if isinstance(config, TextTransformerConfig) else None


def _inherited(experiment: Experiment) -> dict[str, Any]:
    """What is recorded of the weights that the run started from."""
    weights = experiment.backbone.weights
    if weights is None:
        return {}
    try:
        _, metadata = read_imported(weights, header_only=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"the run started from {weights}, and what those weights have seen has to be recorded too: {error}"
        ) from error
    return metadata


def _features(experiment: Experiment, inherited: Mapping[str, Any]) -> FeatureOrigin:
    """What made the features of the run, if those of all tasks were made alike.

    Where its stores do not say, that is what is known of the weights that it started from.
    """
    origins = {stated_origin(open_images(experiment, task.dataset)) for task in experiment.tasks}
    before = FeatureOrigin.from_json(inherited.get("features"))
    return origins.pop().filled_from(before) if len(origins) == 1 else UNKNOWN


def _trained_on(folder: RunFolder, experiment: Experiment, plugins: Plugins) -> list[str]:
    """Ids of all training images, qualified and sorted."""
    trained = {image for task in experiment.tasks for image in _images_of(task, folder, plugins)}
    if experiment.train.remove_evaluation_images:
        identities = recorded_identities(experiment, folder.read_data().get("image_identities"))
        evaluated = [
            _qualified(plugins.find("dataset", task.dataset.name).build(task.dataset, split).image_ids(), task)
            for task in experiment.tasks
            for split in task.dataset.evaluate
        ]
        left_out = evaluation_images(evaluated, identities)
        trained = {image for image in trained if identities.key(image) not in left_out}
    return sorted(trained)


def _images_of(task: TaskConfig, folder: RunFolder, plugins: Plugins) -> set[str]:
    config = task.dataset
    entry = plugins.find("dataset", config.name)
    try:
        parts = [entry.build(config, split) for split in config.train]
    except DataError as error:
        raise DataError(
            [
                f"the images that '{task.display_name}' was trained on have to be recorded, for the leak check:",
                *error.problems,
            ]
        ) from error
    recorded = _recorded(folder, task)
    if changed := [change for part in parts for change in _changes(recorded.get(part.split), part)]:
        raise DataError(
            [f"the training annotations of '{task.display_name}' are not those that the run was trained on:", *changed]
        )
    if config.limit is None:
        return _qualified((image for part in parts for image in part.image_ids()), task)
    first = ((part, index) for part in parts for index in range(min(config.limit, len(part))))
    return _qualified((image for part, index in first for image in part[index].image_ids), task)


def _qualified(image_ids: Iterable[str], task: TaskConfig) -> set[str]:
    return {qualified(image, task.dataset.image_collection) for image in image_ids}


def _recorded(folder: RunFolder, task: TaskConfig) -> dict[str, Mapping[str, Any]]:
    """What the run has recorded about each training split, by its name."""
    records = folder.read_data().get(task.display_name, {}).get("train") or []
    if isinstance(records, Mapping):  # by version 0.3, which mixed the files of several splits into one record
        records = [{"split": task.dataset.train[0], **records}] if len(task.dataset.train) == 1 else []
    return {record["split"]: record for record in records}


def _changes(before: Mapping[str, Any] | None, part: Dataset[Any]) -> list[str]:
    """The differences between a training split as the run has recorded it and as it is now."""
    if before is None:
        return [f"  {part.split}: data.json of the run does not say which file it was"]
    now = part.protocol
    return [
        f"  {part.split}: {key}: {before[key]} -> {now[key]}"
        for key in now
        if key in before and before[key] != now[key]
    ]
