"""Annotation files -> examples."""

from __future__ import annotations

from dataclasses import dataclass

from vlrun import Answers, Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_vqa.records import VqaQuestion


@dataclass(frozen=True)
class VqaAnswers(Answers):
    """What people answered.

    Attributes:
        annotators: who gave each answer, where the source does not tell all annotators apart; else empty.
    """

    annotators: tuple[int, ...] = ()


class VqaQuestions(AnnotatedDataset[Answers, VqaQuestion]):
    """One split of VQA v2: every question is an example; its target is None where the answer is hidden."""

    record = VqaQuestion

    def example_of(self, record: VqaQuestion) -> Example[Answers]:
        return Example(record.id, record.text, (record.image,), _target(record))


def _target(record: VqaQuestion) -> VqaAnswers | None:
    if record.answers is None and record.scores is None:
        return None
    return VqaAnswers(
        record.answers or (), record.scores, record.answer_type, record.question_type, record.annotators or ()
    )
