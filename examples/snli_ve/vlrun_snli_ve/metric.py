"""Predictions -> accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from vlrun import Answers, DataError, Dataset, Metric, Prediction, Score
from vlrun.blocks.predictions import listed, mismatches
from vlrun_snli_ve.config import LABELS


class EntailmentAccuracy(Metric):
    """``accuracy``, the share of right labels in percent, and ``accuracy-LABEL``, over the statements of a label."""

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Answers]) -> list[Score]:
        labels = {example.id: example.target.answers[0] for example in dataset if example.target}
        given = {prediction.id: prediction.fields.get("answer") for prediction in predictions}
        wrong = (name for name, answer in given.items() if answer not in LABELS)
        problems = mismatches(predictions, list(labels), split=dataset.split, unit="statements")
        problems += listed(wrong, f"have a prediction that is none of {', '.join(LABELS)}", split=dataset.split)
        if problems:
            raise DataError(problems)
        right = {label: [given[name] == label for name in labels if labels[name] == label] for label in LABELS}
        by_label = [Score.mean(f"accuracy-{label}", right[label], detail=True) for label in LABELS if right[label]]
        return [Score.mean("accuracy", [*chain(*right.values())], primary=True), *by_label]
