"""Do matched pairs beat mismatched ones? A look at the matching head of imported weights, on a sample of real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlrun.blocks.sign_test import is_conclusive, wins_needed
from vlrun.config.base import TaskConfig
from vlrun.config.experiment import Experiment
from vlrun.data.feature_check import stated_origin
from vlrun.data.splits import open_images
from vlrun.engine.model import matching_head_names
from vlrun.engine.weights import LoadReport, load_weights
from vlrun.errors import CheckpointError, DataError, UsageError
from vlrun.features.origin import FeatureOrigin
from vlrun.features.pictures import ImageStore
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Pair
from vlrun.plugins.manager import Plugins

MATCH = 1
"""The class of a matching head that means that text and image match."""

_PAIRS_PER_BATCH = 32


def check_matching(
    path: Path, experiment: Experiment, plugins: Plugins, *, label: str | None = None, split: str = "", most: int = 64
) -> list[str]:
    """Scores texts of the experiment with their own image and with another one; returns lines on the outcome.

    Args:
        path: imported weights; those of the experiment are not read.
        label: the task whose data are used; None for the first.
        split: empty for the first that the task evaluates.
        most: how many texts.

    Raises:
        UsageError: there is no such task, or ``most`` is not positive.
        DataError: the data are not there, or no text of theirs is about one image.
        CheckpointError: the weights do not fit or have no matching head; or it is no better than chance.
    """
    task = _task(experiment, label)
    if most < 1:
        raise UsageError(f"--pairs {most}: at least one text is needed")
    dataset: Dataset[Any] = plugins.find("dataset", task.dataset.name).build(
        task.dataset, split or task.dataset.evaluate[0]
    )
    store = open_images(experiment, task.dataset)
    backbone: Backbone = plugins.find("backbone", experiment.backbone.name).build(experiment.backbone)
    report = load_weights(backbone, path)
    _refuse_random_head(path, backbone, report)
    pairs = _sample(dataset, store, most)
    images = [pair.image_id for pair in pairs]
    others = [replace(pair, image_id=_another(images, place)) for place, pair in enumerate(pairs)]
    matched, mismatched = (_scores(backbone.eval(), part, store, task.max_text_tokens) for part in (pairs, others))
    won, lost = int((matched > mismatched).sum()), int((matched < mismatched).sum())
    needed, texts = wins_needed(len(pairs)), len(pairs)
    rule = "a one-sided sign test at 1 %" if is_conclusive(texts) else "a majority; so few texts prove little"
    where = f"{task.dataset.name} {dataset.split}"
    line = f"{won} of {texts} texts of {where} match their own image better than another one; {needed} needed ({rule})"
    trained_on = FeatureOrigin.from_json(report.metadata.get("features"))
    features = f"features: {stated_origin(store)}; the weights were trained on: {trained_on}"
    if won >= needed:
        return [features, f"matching: {line}"]
    raise CheckpointError(
        [
            f"{path}: {line}",
            f"the head is the wrong way round: class {MATCH} has to mean a match, so swap the two rows of its weight "
            "and bias and import again"
            if lost >= needed and is_conclusive(texts)
            else "no better than chance. Is the head from image-text pre-training, and are vocabulary and region "
            "features those of that pre-training? A weak head shows itself in more texts: --pairs",
            features,
        ]
    )


def _task(experiment: Experiment, label: str | None) -> TaskConfig:
    for task in experiment.tasks:
        if label in (None, task.display_name):
            return task
    known = ", ".join(task.display_name for task in experiment.tasks)
    raise UsageError(f"there is no task '{label}' in this experiment (there is: {known})")


def _refuse_random_head(path: Path, backbone: Backbone, report: LoadReport) -> None:
    if missing := [name for name in matching_head_names(backbone) if name not in report.matched]:
        raise CheckpointError(f"{path}: has no matching head ({', '.join(missing)}), so there is nothing to compare")


def _sample(dataset: Dataset[Any], store: ImageStore, most: int) -> list[Pair]:
    """Texts about one image each, from all over the split; images without features are passed over.

    Raises:
        DataError: there are no two such texts with different images.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(np.int64))
    examples = [dataset[int(place)] for place in places]
    pairs = [
        Pair(example.text, example.image_ids[0])
        for example in examples
        if len(example.image_ids) == 1 and example.image_ids[0] in store
    ]
    if len({pair.image_id for pair in pairs}) < 2:
        raise DataError(
            f"{dataset.split}: no two texts about one image each, with features in {store.path}, in a sample of "
            f"{len(examples):,}; name another task or split"
        )
    return pairs


def _another(images: Sequence[str], place: int) -> str:
    """An image of the sample that is not the one at ``place``, from far away."""
    own, half = images[place], len(images) // 2
    turned = [*images[place:], *images[:place]]
    return next(image for image in [*turned[half:], *turned[:half]] if image != own)


def _scores(backbone: Backbone, pairs: Sequence[Pair], store: ImageStore, max_text_tokens: int) -> Any:
    """The log-odds of a match for each pair."""
    encode, scores = backbone.pair_encoder(max_text_tokens), []
    read = store.read_with_classes if backbone.reads_classes else store.read
    with torch.inference_mode():
        for start in range(0, len(pairs), _PAIRS_PER_BATCH):
            part = pairs[start : start + _PAIRS_PER_BATCH]
            logits = backbone.matching_head()(backbone(encode(part, read([p.image_id for p in part]))).pooled)
            scores.append((logits[:, MATCH] - logits[:, 1 - MATCH]).double().numpy())
    return np.concatenate(scores)
