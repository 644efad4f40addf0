"""Predictions -> the scores of GQA's official evaluator (metrics reference, section 2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun import Answers, DataError, Dataset, Metric, Prediction, Score, error_by_resampling
from vlrun.blocks.answers import AnswerVocabulary
from vlrun.blocks.predictions import listed, mismatches
from vlrun_gqa.config import GqaAccuracyConfig
from vlrun_gqa.dataset import GqaAnswer

_ANSWERS_TO_COMMON = frozenset({"color", "material", "shape"})  # what two objects can have in common


@dataclass(frozen=True)
class _Question:
    """A question that counts: its ground truth, the number of its words and the answer predicted."""

    id: str
    target: GqaAnswer
    num_words: int
    predicted: str

    @property
    def is_right(self) -> bool:
        return self.predicted == self.target.answer


class GqaAccuracy(Metric):
    """Accuracy over balanced questions, in percent, and the other official scores that the annotations allow.

    Answers are compared letter by letter: no lower-casing, no stripping. A score that the annotations do not allow is
    left out, never 0.

    Scores:
        accuracy: share of balanced questions answered right; of all questions where the source does not say which are.
        open, binary: of structural type ``query``, and of all others ("binary" includes choosing one of two names).
        consistency: for balanced questions answered right, the share of the questions they entail that are right too.
            Those need not be balanced, so this takes a split with ``_all`` and a prediction for each of them.
        validity, plausibility: share of answers that fit the question, or the world; they need the choices file.
        distribution: how far the answers of each group are from the true ones (chi-squared); lower is better.
        upper-bound: share of questions whose answer is in the vocabulary; needs the vocabulary.
        accuracy-structural-..., -semantic-..., -steps-..., -words-...: over the questions of a kind.
    """

    def __init__(self, vocabulary: AnswerVocabulary | None = None) -> None:
        self.vocabulary = vocabulary

    @classmethod
    def from_config(cls, config: GqaAccuracyConfig) -> GqaAccuracy:
        """Makes the metric without a vocabulary, as an experiment names no task that has one."""
        return cls()

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Answers]) -> list[Score]:
        questions, rightness, counted = _joined(predictions, dataset)
        protocol = {"questions": counted, "match": "exact text"}
        mean = partial(Score.mean, protocol=protocol)
        shares: dict[str, Sequence[float] | None] = {
            **_by_openness(questions),
            "consistency": _consistency(questions, rightness),
            "validity": _hits(questions, lambda target: target.valid),
            "plausibility": _hits(questions, lambda target: target.plausible),
        }
        right = [question.is_right for question in questions]
        scores = [mean("accuracy", right, primary=True)]
        scores += [mean(name, values) for name, values in shares.items() if values]
        if grouped := [question for question in questions if question.target.group is not None]:
            scores.append(_distribution(grouped, protocol, dataset.split))
        if self.vocabulary is not None:
            scores.append(_upper_bound(scores[0], questions, self.vocabulary))
        for kind, key_of in _KINDS.items():
            scores += [
                mean(f"accuracy-{kind}-{key}", rights, detail=True) for key, rights in _by_key(questions, key_of)
            ]
        return scores


_KINDS: Mapping[str, Callable[[_Question], Any]] = {
    "structural": lambda question: question.target.structural,
    "semantic": lambda question: question.target.semantic,
    "steps": lambda question: question.target.steps,
    "words": lambda question: question.num_words,
}


def _joined(
    predictions: Sequence[Prediction], dataset: Dataset[Answers]
) -> tuple[list[_Question], dict[str, bool], str]:
    """The questions that count, whether each predicted question is right, and which ones these are.

    Raises:
        DataError: predictions that are missing, unknown, duplicate, or not text; questions without an answer.
    """
    answers = {prediction.id: prediction.fields.get("answer") for prediction in predictions}
    questions: list[_Question] = []
    rightness: dict[str, bool] = {}
    ids, hidden = [], []
    unbalanced: set[str] = set()
    knows_balance = True
    for example in dataset:
        ids.append(example.id)
        predicted = answers.get(example.id)
        if not isinstance(target := example.target, GqaAnswer):
            hidden.append(example.id)
            continue
        knows_balance &= target.is_balanced is not None
        if target.is_balanced is False:
            unbalanced.add(example.id)
        else:
            questions.append(_Question(example.id, target, len(example.text.split()), str(predicted)))
        if example.id in answers:
            rightness[example.id] = predicted == target.answer
    at = {"split": dataset.split, "unit": "questions"}
    no_text = (name for name, answer in answers.items() if not isinstance(answer, str))
    problems = [
        *mismatches(predictions, ids, **at, optional=unbalanced),
        *listed(no_text, "have a prediction whose 'answer' is no text", **at),
        *listed(hidden, "have a hidden answer, so they cannot be scored", **at),
    ]
    if not (problems or questions):
        problems = [f"split '{dataset.split}': no question is balanced, so there is nothing to score"]
    if problems:
        raise DataError(problems)
    return questions, rightness, "balanced" if knows_balance else "all (the source does not say which are balanced)"


def _by_openness(questions: Sequence[_Question]) -> dict[str, list[float]]:
    if any(question.target.structural is None for question in questions):
        return {}
    rights: dict[str, list[float]] = {"binary": [], "open": []}
    for question in questions:
        rights["open" if question.target.structural == "query" else "binary"].append(question.is_right)
    return rights


def _consistency(questions: Sequence[_Question], rightness: Mapping[str, bool]) -> list[float] | None:
    """Per question, the share of those it entails that are right; None if one of them has no prediction."""
    shares = []
    for question in questions:
        others = [name for name in question.target.entailed if name != question.id]
        if question.is_right and others:
            if any(name not in rightness for name in others):
                return None
            shares.append(sum(rightness[name] for name in others) / len(others))
    return shares


def _hits(questions: Sequence[_Question], choices_of: Callable[[GqaAnswer], Sequence[str] | None]) -> list[bool] | None:
    """Per question, whether the prediction is among its choices; None if a question has none."""
    if all(choices_of(question.target) is None for question in questions):
        return None
    hits = []
    for question in questions:
        is_common = "Common" in (question.target.detailed or "")
        choices = _ANSWERS_TO_COMMON if is_common else choices_of(question.target)
        if choices is None:
            return None
        hits.append(question.predicted in choices)
    return hits


def _distribution(questions: Sequence[_Question], protocol: Mapping[str, Any], split: str) -> Score:
    """Chi-squared of predicted against true answers per group, weighted by the group's questions, divided by 100.

    Predicted answers that are never true in a group are left out, as in the official evaluator.
    """
    keys = [str(question.target.group) for question in questions]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    groups = np.array([numbers[key] for key in keys])
    pairs: dict[tuple[str, str], int] = {}  # of a group and one of its true answers
    truths = np.array(
        [pairs.setdefault((key, item.target.answer), len(pairs)) for key, item in zip(keys, questions, strict=True)]
    )
    guesses = np.array([pairs.get((key, item.predicted), -1) for key, item in zip(keys, questions, strict=True)])
    group_of_pair = np.array([numbers[key] for key, _ in pairs])

    def of(rows: NDArray[np.int64]) -> float:
        expected = np.bincount(truths[rows], minlength=len(pairs))
        guessed = np.bincount(guesses[rows] + 1, minlength=len(pairs) + 1)[1:]
        sizes = np.bincount(groups[rows], minlength=len(numbers))[group_of_pair]
        is_true = expected > 0
        chi_squared = (guessed - expected)[is_true] ** 2 / expected[is_true]
        return float((chi_squared * sizes[is_true]).sum() / len(rows) / 100)

    return Score(
        "distribution",
        of(np.arange(len(questions))),
        unit="",
        count=len(questions),
        protocol=protocol,
        higher_is_better=False,
        standard_error=error_by_resampling(len(questions), of, split, "distribution"),
    )


def _upper_bound(accuracy: Score, questions: Sequence[_Question], vocabulary: AnswerVocabulary) -> Score:
    reachable = [question.target.answer in vocabulary for question in questions]
    protocol = {**accuracy.protocol, "vocabulary": f"{len(vocabulary):,} answers ({vocabulary.hash})"}
    return Score.mean("upper-bound", reachable, protocol=protocol)


def _by_key(questions: Sequence[_Question], key_of: Callable[[_Question], Any]) -> list[tuple[Any, list[bool]]]:
    """Key -> whether its questions are right, in order of the keys; empty if any question has no key."""
    groups: dict[Any, list[bool]] = defaultdict(list)
    for question in questions:
        groups[key_of(question)].append(question.is_right)
    return [] if None in groups else sorted(groups.items())
