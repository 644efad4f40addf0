"""Predictions -> the official VQA accuracy, with the protocol that makes the number comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlrun import Answers, DataError, Dataset, Metric, Prediction, Score
from vlrun.blocks.answers import AnswerVocabulary
from vlrun.blocks.predictions import listed, mismatches
from vlrun_vqa.accuracy import Evaluator, ground_truth
from vlrun_vqa.config import VqaAccuracyConfig
from vlrun_vqa.normalisation import normalise, one_line

_EVALUATORS: Mapping[Evaluator, str] = {
    "current": "official, from 2021-03 on",
    "pre-2021": "official, before 2021-03",
}
_LOOKUP = "soft-score lookup, as LXMERT reports"


@dataclass(frozen=True)
class _Judged:
    """One question.

    Attributes:
        accuracy: of the prediction, in [0, 1].
        bound: the same of the best answer of the vocabulary; None if that has no answer to the question.
        is_lookup: whether the question has soft scores only.
        answer_type, question_type: as annotated.
    """

    accuracy: float
    bound: float | None
    is_lookup: bool
    answer_type: str | None
    question_type: str | None


class VqaAccuracy(Metric):
    """Accuracy of open-ended answers, in percent, each question counted once.

    Scores:
        accuracy: over all questions.
        accuracy-yes/no, accuracy-number, accuracy-other: over the questions of an answer type.
        accuracy of "what color is the" ...: over the questions of a question type; details.
        upper-bound: accuracy of the best answer of the vocabulary to each question.
        unanswerable: how many questions have no answer in the vocabulary.

    A question with soft scores only is scored by looking the prediction up, without normalising it. Questions with
    hidden answers are left out and counted in the protocol.
    """

    def __init__(self, config: VqaAccuracyConfig, vocabulary: AnswerVocabulary | None = None) -> None:
        """Chooses the version of the evaluator.

        Args:
            vocabulary: the answers that could be predicted, for the upper bound.
        """
        self.config = config
        self.vocabulary = vocabulary
        lines = [one_line(answer) for answer in vocabulary or ()]
        self._plain = frozenset(lines)
        self._normalised = frozenset(map(normalise, lines))

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Answers]) -> list[Score]:
        answers = {prediction.id: prediction.fields.get("answer") for prediction in predictions}
        ids, judged = [], []
        for example in dataset:
            ids.append(example.id)
            if example.target is not None and isinstance(answer := answers.get(example.id), str):
                judged.append(self._judge(answer, example.target))
        _refuse_what_does_not_fit(predictions, ids, dataset.split)
        if not judged:
            raise DataError(f"split '{dataset.split}': the answers to all questions are hidden, so none can be scored")
        protocol = self._protocol(judged, len(ids))
        return [
            Score.mean("accuracy", [item.accuracy for item in judged], protocol, primary=True),
            *_by_answer_type(judged, protocol),
            *self._bounds(judged, protocol),
            *_by_question_type(judged, protocol),
        ]

    def _judge(self, prediction: str, target: Answers) -> _Judged:
        if not target.answers:
            scores = target.scores or {}
            accuracy = scores.get(prediction, 0.0)
            bound = max((score for answer, score in scores.items() if self._knows(answer)), default=None)
        else:
            truth = ground_truth(target.answers, getattr(target, "annotators", ()), self.config.evaluator)
            accuracy = truth.score(truth.spelled(prediction))
            can_be_said = self._normalised if truth.normalises else self._plain
            bound = max(map(truth.score, can_be_said.intersection(truth.answers)), default=None)
        return _Judged(accuracy, bound, not target.answers, target.answer_type, target.question_type)

    def _knows(self, answer: str) -> bool:
        return self.vocabulary is not None and answer in self.vocabulary

    def _protocol(self, judged: Sequence[_Judged], num_examples: int) -> dict[str, str]:
        looked_up = sum(item.is_lookup for item in judged)
        if looked_up == len(judged):
            evaluator = _LOOKUP
        else:
            evaluator = _EVALUATORS[self.config.evaluator]
            if looked_up:
                evaluator += f"; {_LOOKUP}, for {looked_up:,} of {len(judged):,} questions"
        hidden = num_examples - len(judged)
        return {"evaluator": evaluator, **({"hidden": f"{hidden:,} questions are not scored"} if hidden else {})}

    def _bounds(self, judged: Sequence[_Judged], protocol: Mapping[str, str]) -> list[Score]:
        if self.vocabulary is None:
            return []
        protocol = {**protocol, "vocabulary": f"{len(self.vocabulary):,} answers, {self.vocabulary.hash}"}
        unanswerable = sum(item.bound is None for item in judged)
        return [
            Score.mean("upper-bound", [item.bound or 0.0 for item in judged], protocol),
            Score("unanswerable", unanswerable, "", len(judged), protocol, higher_is_better=False),
        ]


def _refuse_what_does_not_fit(predictions: Sequence[Prediction], ids: Sequence[str], split: str) -> None:
    """Checks that every question has exactly one predicted answer, and that it is text.

    Two answers to one question are an error, as nothing says which was meant; the official loader takes the last.

    Raises:
        DataError: all that does not fit.
    """
    at = {"split": split, "unit": "questions"}
    no_text = (item for item in predictions if not isinstance(item.fields.get("answer"), str))
    problems = [
        *mismatches(predictions, ids, **at),
        *listed(
            (f"{item.id} ({item.fields.get('answer')!r})" for item in no_text),
            "have a prediction whose answer is no text",
            **at,
        ),
    ]
    if problems:
        raise DataError(problems)


def _by_answer_type(judged: Iterable[_Judged], protocol: Mapping[str, str]) -> list[Score]:
    groups: dict[str, list[float]] = {}
    for item in judged:
        if item.answer_type is not None:
            groups.setdefault(item.answer_type, []).append(item.accuracy)
    usual = ["yes/no", "number", "other"]  # the order of the papers' tables
    names = [name for name in usual if name in groups] + sorted(groups.keys() - set(usual))
    return [Score.mean(f"accuracy-{name}", groups[name], protocol) for name in names]


def _by_question_type(judged: Iterable[_Judged], protocol: Mapping[str, str]) -> list[Score]:
    groups: dict[str, list[float]] = {}
    for item in judged:
        if item.question_type is not None:
            groups.setdefault(item.question_type, []).append(item.accuracy)
    return [
        Score.mean(f"accuracy-question-{name.replace(' ', '-')}", groups[name], protocol, detail=True)
        for name in sorted(groups)
    ]
