"""Predictions -> accuracy and consistency, with the protocol that makes the numbers comparable."""

from __future__ import annotations

from collections.abc import Sequence

from vlrun import DataError, Dataset, Metric, Prediction, Score
from vlrun.blocks.predictions import listed, mismatches
from vlrun_nlvr2.config import Nlvr2AccuracyConfig
from vlrun_nlvr2.dataset import Statement

Judged = list[tuple[Statement, bool]]
"""Statements, each with whether it was judged rightly."""


class Nlvr2Accuracy(Metric):
    """Accuracy and consistency in percent; the official main script prints the same as fractions of 1.

    Scores:
        accuracy: share of statements that are judged rightly. Papers report this one.
        consistency: share of groups in which every statement is. A group is one sentence about one image set, which is
            neither the sentence's text (2,018 groups in dev, 2,004 texts) nor the image pair.
        balanced-accuracy, unbalanced-accuracy, and -consistency: the same on an official subset alone: its groups hold
            only the subset's statements. Left out where the source names no subsets.
        accuracy-PHENOMENON: over the statements whose sentence is annotated with a linguistic phenomenon; dev only.
    """

    def __init__(self, config: Nlvr2AccuracyConfig) -> None:
        self.config = config

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Statement]) -> list[Score]:
        judged = _judged(predictions, dataset)
        return [
            *_scores(judged, primary=True),
            *_subset_scores(judged),
            *_phenomenon_scores(judged),
        ]


def _scores(judged: Judged, subset: str = "", *, primary: bool = False) -> list[Score]:
    prefix, protocol = (f"{subset}-", {"subset": subset}) if subset else ("", {})
    groups: dict[str, bool] = {}
    for target, right in judged:
        groups[target.group] = groups.get(target.group, True) and right
    consistent = list(groups.values())
    return [
        Score.mean(
            f"{prefix}accuracy",
            [right for _, right in judged],
            protocol={**protocol, "unit": "statements"},
            primary=primary,
        ),
        Score.mean(
            f"{prefix}consistency",
            consistent,
            protocol={**protocol, "unit": "groups of one sentence and image set"},
        ),
    ]


def _subset_scores(judged: Judged) -> list[Score]:
    names = sorted({name for target, _ in judged for name in target.subsets or ()})
    scores = []
    for name in names:
        inside = [(target, right) for target, right in judged if name in (target.subsets or ())]
        scores += _scores(inside, name)
    return scores


def _phenomenon_scores(judged: Judged) -> list[Score]:
    names = sorted({name for target, _ in judged for name in target.categories or ()})
    scores = []
    for name in names:
        rights = [right for target, right in judged if name in (target.categories or ())]
        scores.append(
            Score.mean(
                f"accuracy-{name.replace(' ', '-')}",
                rights,
                protocol={"unit": "statements", "phenomenon": name},
                detail=True,
            )
        )
    return scores


def _judged(predictions: Sequence[Prediction], dataset: Dataset[Statement]) -> Judged:
    """Every statement with whether its one prediction is right.

    Raises:
        DataError: predictions that are missing, unknown, duplicate, or not a truth value; statements without a label.
    """
    examples = list(dataset)
    labels = {prediction.id: prediction.fields.get("label") for prediction in predictions}
    at = {"split": dataset.split, "unit": "statements"}
    problems = [
        *mismatches(predictions, [example.id for example in examples], **at),
        *listed(
            (f"{name} ({label!r})" for name, label in labels.items() if not isinstance(label, bool)),
            "have a prediction whose label is neither true nor false",
            **at,
        ),
        *listed(
            (example.id for example in examples if example.target is None),
            "have no known label, so they cannot be scored",
            **at,
        ),
    ]
    if problems:
        raise DataError(problems)
    return [(target, labels[example.id] == target.label) for example in examples if (target := example.target)]
