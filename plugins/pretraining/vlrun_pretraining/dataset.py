"""Annotation files -> examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlrun import Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_pretraining.records import CocoCaption, LxmertText


@dataclass(frozen=True)
class Caption:
    """What there is to learn about a text (target ``"caption"``) besides the image of its example, which says most.

    Attributes:
        answers: to the question that the text is, each with its score; None if it is none, or has none that is known.
    """

    answers: Mapping[str, float] | None = None


class CocoCaptions(AnnotatedDataset[Caption, CocoCaption]):
    """One split of COCO's captions: every caption is an example."""

    record = CocoCaption

    def example_of(self, record: CocoCaption) -> Example[Caption]:
        """The caption with its image."""
        return Example(record.id, record.text, (record.image,), Caption())


class LxmertTexts(AnnotatedDataset[Caption, LxmertText]):
    """One split of LXMERT's pre-training: every caption and every question is an example."""

    record = LxmertText

    def example_of(self, record: LxmertText) -> Example[Caption]:
        """The text with its image, and the answers if it is a question."""
        return Example(record.id, record.text, (record.image,), Caption(record.answers))
