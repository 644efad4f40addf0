"""Outputs of pre-training -> what was guessed of each pair, small enough to leave the device.

P pairs, K words, M hidden regions, N regions to classify, T topics, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun import Batch, Prediction
from vlrun.blocks.decoders import ATTRIBUTES, CLASSES, FEATURES
from vlrun_pretraining.head import PretrainingOutput
from vlrun_pretraining.losses import decoded_at, distances_of, feature_errors


@dataclass(frozen=True)
class Guesses:
    """The best guess of everything; None where nothing of the kind is learned.

    Attributes:
        matching: (P, 2) logits; class 1 means that text and image match.
        words: (K,) int64.
        features: (M,) error of each hidden region, as the loss has it.
        classes, attributes: (N,) int64.
        answers: (P,) int64.
        topics: (P, most topics of a pair) int64, best first.
        distances: (P,) float32, from the words of a pair to its regions.
    """

    matching: Tensor | None
    words: Tensor | None
    features: Tensor | None
    classes: Tensor | None
    attributes: Tensor | None
    answers: Tensor | None
    topics: Tensor | None
    distances: Tensor | None


def guesses_of(outputs: PretrainingOutput, targets: Mapping[str, Tensor]) -> Guesses:
    """The guesses for a batch, on the device of ``outputs``; ``targets`` are on the CPU."""
    parts = [part for part in (outputs.matching, outputs.answers, outputs.topics) if part is not None]
    parts += [part.states for part in (outputs.words, *outputs.regions.values()) if part is not None]
    parts += [outputs.states.pooled] if outputs.states is not None else []
    there = {name: target.to(parts[0].device) for name, target in targets.items()}
    most = int(torch.bincount(targets["topic_rows"]).max()) if targets.get("topic_rows", torch.empty(0)).numel() else 0

    def best(part: Any, kind: str) -> Tensor | None:
        if part is None:
            return None
        return decoded_at(part, there[f"{kind}_rows"], there[f"{kind}_places"]).argmax(dim=1)

    return Guesses(
        outputs.matching,
        best(outputs.words, "word"),
        feature_errors(outputs, there) if FEATURES in outputs.regions else None,
        best(outputs.regions.get(CLASSES), "class"),
        best(outputs.regions.get(ATTRIBUTES), "class"),
        None if outputs.answers is None else outputs.answers.argmax(dim=1),
        None if outputs.topics is None else outputs.topics.topk(most, dim=1).indices,
        None if outputs.states is None else distances_of(outputs),
    )


def predictions_of(guesses: Guesses, batch: Batch) -> list[Prediction]:
    """One prediction per pair, with the fields of what is learned.

    ``match``, the probability that text and image match; ``matched``, whether they do; ``words``, ``classes``,
    ``attributes``: [what was right, what was guessed] of each word piece and each region that was hidden; ``features``:
    their number, the sum of their errors, and that of guessing the mean of the regions that were shown; ``answer``: as
    ``words``, one of them; ``topics``: the right ones and as many that were guessed; ``distance``: from the words to
    the regions.
    """
    targets = batch.targets
    rows: list[dict[str, Any]] = [{"matched": bool(matched)} for matched in targets["matched"]]
    match = None if guesses.matching is None else guesses.matching.double().softmax(dim=1)[:, 1]
    for name, of_pairs in (("match", match), ("distance", guesses.distances)):
        for row, value in zip(rows, [] if of_pairs is None else of_pairs.double().tolist(), strict=False):
            row[name] = value
    if guesses.words is not None:
        _add(rows, "words", targets["word_rows"], targets["word_labels"], guesses.words)
    if guesses.features is not None:
        _add_errors(rows, batch, guesses.features)
    for name, kind, guessed in (("classes", "class", guesses.classes), ("attributes", "attribute", guesses.attributes)):
        if guessed is not None:
            kept = targets["class_is_hidden"]
            _add(rows, name, targets["class_rows"][kept], targets[f"{kind}_labels"][kept], guessed[kept])
    if guesses.answers is not None:
        for row, label, guess in zip(rows, targets["answers"].tolist(), guesses.answers.tolist(), strict=True):
            row["answer"] = [label, guess] if label >= 0 else None
    if guesses.topics is not None:
        labels: list[list[int]] = [[] for _ in rows]
        for place, word in zip(targets["topic_rows"].tolist(), targets["topic_words"].tolist(), strict=True):
            labels[place].append(word)
        for row, right, best in zip(rows, labels, guesses.topics.tolist(), strict=True):
            row["topics"] = [right, best[: len(right)]]
    return [Prediction(name, row) for name, row in zip(batch.ids, rows, strict=True)]


def _add(rows: list[dict[str, Any]], name: str, places: Tensor, labels: Tensor, guessed: Tensor) -> None:
    for row in rows:
        row[name] = []
    for place, label, guess in zip(places.tolist(), labels.tolist(), guessed.tolist(), strict=True):
        rows[place][name].append([label, guess])


def _add_errors(rows: list[dict[str, Any]], batch: Batch, errors: Tensor) -> None:
    """Of each pair how many regions were hidden, the sum of their errors, and that of guessing the mean."""
    for row in rows:
        row["features"] = [0, 0.0, 0.0]
    places = batch.targets["region_rows"].tolist()
    for place, error, of_mean in zip(places, errors.tolist(), _errors_of_means(batch).tolist(), strict=True):
        count, sums, of_means = rows[place]["features"]
        rows[place]["features"] = [count + 1, sums + error, of_means + of_mean]


def _errors_of_means(batch: Batch) -> Tensor:
    """(M,) the error of guessing, for each hidden region, the mean of those regions of its image that are shown."""
    encoding, targets = batch.encoding, batch.targets
    rows, places = targets["region_rows"], targets["region_places"]
    shown = encoding.region_mask.clone()
    shown[rows, places] = False
    features = encoding.region_features.float()
    means = (features * shown[..., None]).sum(1) / shown.sum(1, keepdim=True).clamp(min=1)
    errors = F.smooth_l1_loss(means[rows], targets["region_features"].float(), reduction="none")
    return errors.mean(dim=1)
