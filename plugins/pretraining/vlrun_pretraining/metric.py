"""Predictions -> how well each objective is guessed, and how well by whoever sees neither text nor image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlrun import DataError, Dataset, Metric, Prediction, Score, Units, error_of_mean
from vlrun.blocks.predictions import mismatches
from vlrun_pretraining.config import PretrainConfig

Row = Mapping[str, Any]

_SHARES = {"words": "masked-word", "classes": "region-class", "attributes": "region-attribute", "answer": "answer"}
"""Field -> what its accuracy is called."""


class PretrainingAccuracy(Metric):
    """How well a network guesses what pre-training asks; beside each score, ``trivial-`` that of a trivial guess.

    Scores (in percent where nothing else is said), of which only those are there that are learned and asked for:
        matching-accuracy: share of pairs of which it says rightly whether they match. Trivial: always the same.
        masked-word-accuracy: share of masked word pieces that it finds among all of the vocabulary. Trivial: the most
            frequent one.
        region-class-accuracy, region-attribute-accuracy: likewise of hidden regions and what the detector called them.
        region-feature-error: smooth L1 of the features of hidden regions, no percentage, the lower the better. Trivial:
            the mean of the regions of the image that are shown.
        answer-accuracy: share of questions answered as the drawn label says. Trivial: the most frequent answer.
        topic-precision: of a pair with k topics, the share of right ones among the k best; mean over pairs. Trivial:
            the k most frequent topics.
        transport-auc: how often a pair that matches has a shorter way from its words to its regions than one that does
            not, of all such couples. Trivial: chance.

    The first of them that there is chooses the best checkpoint.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> list[Score]:
        ids = [example.id for example in dataset]
        if problems := mismatches(predictions, ids, split=dataset.split, unit="captions"):
            raise DataError(problems)
        by_id = {prediction.id: prediction for prediction in predictions}
        rows = [_checked(by_id[each]) for each in ids]  # the order of the data, in which two runs are compared
        protocol: dict[str, Any] = {"pairs": self._pairs()}
        if choices := self.config.choices:
            protocol["our choice"] = "; ".join(choices)
        found = [
            *_matching(rows, protocol),
            *self._shares(rows, protocol),
            *_features(rows, {**protocol, "masked": self._masked()["features"]}),
            *_topics(rows, {**protocol, "topics": self.config.topics}),
            *_transport(rows, protocol),
        ]
        if not found:
            raise DataError(f"split '{dataset.split}': nothing had to be guessed in any of its {len(rows)} pairs")
        return [replace(found[0], primary=True), *found[1:]]

    def _masked(self) -> Mapping[str, str]:
        """What share of words and regions has to be guessed, by field of a prediction."""
        masking = self.config.masking
        asked = "all pairs" if self.config.learn_from_mismatched else "pairs that match"
        shuffled = masking.shuffled_images
        moved = f"; in {shuffled:.0%} of the images as many others change places" if shuffled else ""
        also = "" if masking.text_side is None else ", and what the graph of the text tells, of one side of each pair"
        regions = f"{masking.regions:.0%} of the regions of {asked} ({masking.name}){also}{moved}"
        return {
            "words": f"{masking.words:.0%} of the word pieces of {asked} ({masking.name}){also}",
            **dict.fromkeys(("classes", "attributes", "features"), regions),
        }

    def _shares(self, rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[Score]:
        masked = self._masked()
        found: list[Score] = []
        for field, name in _SHARES.items():
            guesses = [_pairs_in(row[field]) for row in rows if field in row]
            labels = Counter(label for of_row in guesses for label, _ in of_row)
            if not labels:
                continue  # a share of nothing is no score
            own = {**protocol, **({"masked": masked[field]} if field in masked else {})}
            right = [sum(label == guess for label, guess in of_row) for of_row in guesses]
            often = labels.most_common(1)[0][0]
            trivial = [sum(label == often for label, _ in of_row) for of_row in guesses]
            counts = [len(of_row) for of_row in guesses]
            found.append(_share(f"{name}-accuracy", right, counts, own))
            found.append(_share(f"trivial-{name}-accuracy", trivial, counts, {**own, "guess": "most frequent"}))
        return found

    def _pairs(self) -> str:
        mismatch = self.config.mismatch
        if not mismatch.probability:
            return "all match"
        among = "any" if mismatch.nearest is None else f"one of the {mismatch.nearest} most similar"
        return f"{mismatch.probability:.0%} with another item's {mismatch.side} (its image is another, {among})"


def _matching(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[Score]:
    asked = [row for row in rows if "match" in row]
    if not asked:
        return []
    hits = [(row["match"] > 0.5) == row["matched"] for row in asked]
    matched = [bool(row["matched"]) for row in asked]
    often = 2 * sum(matched) >= len(matched)
    trivial = {**protocol, "guess": f"always {'a match' if often else 'no match'}"}
    return [
        Score.mean("matching-accuracy", hits, protocol=protocol),
        Score.mean("trivial-matching-accuracy", [each == often for each in matched], protocol=trivial),
    ]


def _features(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[Score]:
    asked = [row["features"] for row in rows if "features" in row]
    counts = [count for count, _, _ in asked]
    if not sum(counts):
        return []
    own, mean = [error for _, error, _ in asked], [error for _, _, error in asked]
    of_mean = {**protocol, "guess": "mean of the regions that are shown"}
    return [
        _share("region-feature-error", own, counts, protocol, unit=""),
        _share("trivial-region-feature-error", mean, counts, of_mean, unit=""),
    ]


def _topics(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[Score]:
    asked = [row["topics"] for row in rows if "topics" in row and row["topics"][0]]
    if not asked:
        return []
    frequent = [topic for topic, _ in Counter(topic for labels, _ in asked for topic in labels).most_common()]
    guessed = [len({*labels} & {*best}) / len(labels) for labels, best in asked]
    trivial = [len({*labels} & {*frequent[: len(labels)]}) / len(labels) for labels, _ in asked]
    most_frequent = {**protocol, "guess": "most frequent"}
    return [
        Score.mean("topic-precision", guessed, protocol=protocol),
        Score.mean("trivial-topic-precision", trivial, protocol=most_frequent),
    ]


def _transport(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[Score]:
    matched, other = (
        np.array([row["distance"] for row in rows if "distance" in row and row["matched"] is kind], float)
        for kind in (True, False)
    )
    if not len(matched) or not len(other):
        return []
    places = np.sort(other)
    shorter = len(other) - np.searchsorted(places, matched, side="right")
    alike = len(other) - np.searchsorted(places, matched, side="left") - shorter
    share = float((shorter + alike / 2).mean() / len(other))
    chance = {**protocol, "guess": "chance"}
    return [
        Score("transport-auc", 100 * share, "%", count=len(matched) + len(other), protocol=protocol),
        Score("trivial-transport-auc", 50.0, "%", count=len(matched) + len(other), protocol=chance),
    ]


def _share(
    name: str, sums: Sequence[float], counts: Sequence[int], protocol: Mapping[str, Any], unit: str = "%"
) -> Score:
    """What is right or wrong of all that is asked; what belongs to a pair is hidden and guessed together."""
    scale = 100 if unit == "%" else 1
    error = error_of_mean(sums, counts)
    return Score(
        name,
        scale * sum(sums) / sum(counts),
        unit,
        count=sum(counts),
        protocol=protocol,
        higher_is_better=unit == "%",
        standard_error=None if error is None else scale * error,
        units=Units(scale * np.array(sums, float), np.array(counts, float)),
    )


def _checked(prediction: Prediction) -> Row:
    fields = prediction.fields
    answer = fields.get("answer")
    is_right = (
        isinstance(fields.get("matched"), bool)
        and all(_is_number(fields.get(name, 0.0)) for name in ("match", "distance"))
        and all(_is_list(fields.get(name, []), _is_pair) for name in ("words", "classes", "attributes"))
        and (answer is None or _is_pair(answer))
        and _is_list(fields.get("features", [0, 0, 0]), _is_number, 3)
        and _is_list(fields.get("topics", [[], []]), lambda part: _is_list(part, _is_number), 2)
    )
    if not is_right:
        raise DataError(
            f"prediction '{prediction.id}': expected matched (true or false), and where they are learned match, "
            "distance (numbers), words, classes, attributes (lists of [right, guessed]), answer ([right, guessed] or "
            "null), features (number, error, error of the mean) and topics (right ones, guessed ones), found "
            f"{dict(fields)}"
        )
    return fields


def _pairs_in(value: Any) -> Sequence[Sequence[int]]:
    """The [right, guessed] of a field; of an answer there is one or none."""
    return [] if value is None else [value] if value and isinstance(value[0], int) else value


def _is_pair(value: Any) -> bool:
    return _is_list(value, lambda number: isinstance(number, int), 2)


def _is_list(value: Any, fits: Callable[[Any], bool], length: int | None = None) -> bool:
    return isinstance(value, list | tuple) and length in (None, len(value)) and all(map(fits, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int)
