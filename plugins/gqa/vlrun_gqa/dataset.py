"""Annotation files -> examples."""

from __future__ import annotations

from dataclasses import dataclass

from vlrun import Answers, Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_gqa.records import GqaQuestion


@dataclass(frozen=True)
class GqaAnswer(Answers):
    """The one answer of a question with what the metric needs (target ``"gqa-answer"``); fields as in the record."""

    is_balanced: bool | None = None
    structural: str | None = None
    semantic: str | None = None
    detailed: str | None = None
    group: str | None = None
    steps: int | None = None
    entailed: tuple[str, ...] = ()
    valid: tuple[str, ...] | None = None
    plausible: tuple[str, ...] | None = None

    @property
    def answer(self) -> str:
        """The one right answer."""
        return self.answers[0]


class GqaQuestions(AnnotatedDataset[Answers, GqaQuestion]):
    """One split of GQA: every question is an example; where its answer is hidden it has no target."""

    record = GqaQuestion

    def example_of(self, record: GqaQuestion) -> Example[Answers]:
        return Example(record.id, record.text, (record.image,), target_of(record))


def target_of(record: GqaQuestion) -> GqaAnswer | None:
    """Makes the target of a question; None where its answer is hidden."""
    if record.answer is None:
        return None
    return GqaAnswer(
        answers=(record.answer,),
        is_balanced=record.is_balanced,
        structural=record.structural,
        semantic=record.semantic,
        detailed=record.detailed,
        group=record.group,
        steps=record.steps,
        entailed=record.entailed or (),
        valid=record.valid,
        plausible=record.plausible,
    )
