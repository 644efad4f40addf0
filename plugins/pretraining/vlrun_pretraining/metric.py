"""Predictions -> how often matching and masked words are guessed right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrun import DataError, Dataset, Metric, Prediction, Score, error_of_mean
from vlrun.blocks.predictions import mismatches
from vlrun_pretraining.config import PretrainConfig


class PretrainingAccuracy(Metric):
    """How well a network guesses what pre-training asks, in percent.

    Scores:
        matching-accuracy: share of pairs of which it says rightly whether caption and image match.
        masked-word-accuracy: share of masked word pieces that it finds among all of the vocabulary.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> list[Score]:
        ids = [example.id for example in dataset]
        if problems := mismatches(predictions, ids, split=dataset.split, unit="captions"):
            raise DataError(problems)
        by_id = {prediction.id: prediction for prediction in predictions}
        rows = [_checked(by_id[each]) for each in ids]  # the order of the data, in which two runs are compared
        hits = [(row["match"] > 0.5) == row["matched"] for row in rows]
        masked, found = ([row[name] for row in rows] for name in ("masked_words", "right_words"))
        words, right = sum(masked), sum(found)
        error = error_of_mean(found, masked)  # the words of a caption are masked and guessed together
        protocol = {**dataset.protocol, "split": dataset.split, "pairs": self._pairs()}
        asked = "all pairs" if self.config.learn_from_mismatched else "pairs that match"
        return [
            Score.mean("matching-accuracy", hits, protocol=protocol, primary=True),
            Score(
                "masked-word-accuracy",
                100 * right / words if words else 0.0,
                count=words,
                protocol={**protocol, "masked": f"{self.config.mask_words:.0%} of the word pieces of {asked}"},
                standard_error=None if error is None else 100 * error,
            ),
        ]

    def _pairs(self) -> str:
        return f"{self.config.mismatch:.0%} with a random other image of the split; words and regions masked"


def _checked(prediction: Prediction) -> Mapping[str, Any]:
    fields = prediction.fields
    match, matched = fields.get("match"), fields.get("matched")
    counts = [fields.get("masked_words"), fields.get("right_words")]
    is_right = isinstance(match, float | int) and isinstance(matched, bool) and all(isinstance(n, int) for n in counts)
    if not is_right:
        raise DataError(
            f"prediction '{prediction.id}': expected match (a number), matched (true or false), masked_words and "
            f"right_words (whole numbers), found {dict(fields)}"
        )
    return fields
