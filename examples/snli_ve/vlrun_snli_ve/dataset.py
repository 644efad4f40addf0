"""Annotation files -> examples."""

from __future__ import annotations

from pydantic import Field

from vlrun import Answers, Config, Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_snli_ve.config import Label


class StatementRecord(Config):
    """A statement about an image. Example::

    {"id": "36979.jpg#0r1c", "text": "Nobody is there.", "image": "36979", "label": "contradiction"}
    """

    id: str = Field(min_length=1, description="pairID of the official file")
    text: str = Field(description="the statement (hypothesis)")
    image: str = Field(min_length=1, description="the image (premise), by its number at Flickr")
    label: Label = Field(description="whether the statement follows from the image")


class Statements(AnnotatedDataset[Answers, StatementRecord]):
    """One split: every statement is an example, whose answer is its label."""

    record = StatementRecord

    def example_of(self, record: StatementRecord) -> Example[Answers]:
        return Example(record.id, record.text, (record.image,), Answers((record.label,)))
