"""What one answer to one question scores under the official VQA evaluator, in its two versions (no torch, no numpy)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlrun_vqa.normalisation import normalise, one_line, without_punctuation

Evaluator = Literal["current", "pre-2021"]

_ENOUGH_VOTES = 3


@dataclass(frozen=True)
class GroundTruth:
    """The answers to a question as an evaluator compares them.

    Attributes:
        answers: one per annotator.
        annotators: who gave each; equal answers of one annotator are left out together. Empty: all differ.
        normalises: whether a prediction is normalised before it is compared.
    """

    answers: tuple[str, ...]
    annotators: tuple[int, ...]
    normalises: bool

    def spelled(self, prediction: str) -> str:
        """Spells ``prediction`` as it is compared."""
        return normalise(one_line(prediction)) if self.normalises else one_line(prediction)

    def score(self, spelled: str) -> float:
        """Mean over the n annotators of min(1, how many of the *others* say the same / 3), in [0, 1].

        The evaluator leaves out every record that equals the annotator's; where records carry an ``answer_id``, that is
        one record.
        """
        votes = self.answers.count(spelled)
        if not votes:
            return 0.0
        count = len(self.answers)
        points = (count - votes) * min(votes, _ENOUGH_VOTES)
        for left_out in self._left_out(spelled):
            points += min(votes - left_out, _ENOUGH_VOTES)
        return points / (_ENOUGH_VOTES * count)

    def _left_out(self, spelled: str) -> list[int]:
        """For each record that says ``spelled``: how many equal it, itself included."""
        if not self.annotators:
            return [1] * self.answers.count(spelled)
        who = [name for name, answer in zip(self.annotators, self.answers, strict=True) if answer == spelled]
        twins = Counter(who)
        return [twins[name] for name in who]


def ground_truth(answers: Sequence[str], annotators: Sequence[int], evaluator: Evaluator) -> GroundTruth:
    """Spells ``answers`` as an evaluator does, without changing the arguments.

    Current version (from March 2021 on): outer white space is stripped; the rest is normalised, in answers and
    prediction, only where answers differ. Earlier version: answers are normalised in punctuation alone, and only where
    they differ, while predictions are always normalised fully.
    """
    if evaluator == "pre-2021":
        spelled = answers if len(set(answers)) == 1 else [without_punctuation(answer) for answer in answers]
        return GroundTruth(tuple(spelled), tuple(annotators), normalises=True)
    lines = [one_line(answer) for answer in answers]
    disagree = len(set(lines)) > 1
    return GroundTruth(tuple(map(normalise, lines) if disagree else lines), tuple(annotators), normalises=disagree)
