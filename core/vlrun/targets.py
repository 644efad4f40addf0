"""Ground truths that tasks and datasets of different plugins share; each goes with the ``target`` of an Entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Referent:
    """What a referring expression means (target ``"referent"``).

    Attributes:
        box: x, y, width, height in pixels, as annotated.
        image_height, image_width: in pixels, as annotated.
        ref_id: the referent, which several expressions may share; None where the source does not say.
    """

    box: tuple[float, float, float, float]
    image_height: int
    image_width: int
    ref_id: int | None = None


@dataclass(frozen=True)
class Answers:
    """What a question's answer is (target ``"answers"``).

    Attributes:
        answers: as given, one per annotator; empty where the source has only ``scores``.
        scores: answer -> soft score in [0, 1], where the source has nothing else; it may be empty.
        answer_type, question_type: groups for which accuracy is told apart; None where unknown.
    """

    answers: tuple[str, ...] = ()
    scores: Mapping[str, float] | None = None
    answer_type: str | None = None
    question_type: str | None = None
