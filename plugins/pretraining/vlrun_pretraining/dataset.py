"""Annotation files -> examples."""

from __future__ import annotations

from dataclasses import dataclass

from vlrun import Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_pretraining.records import CocoCaption


@dataclass(frozen=True)
class Caption:
    """What a caption belongs to (target ``"caption"``): the image of the example, which says it all."""


class CocoCaptions(AnnotatedDataset[Caption, CocoCaption]):
    """One split of COCO's captions: every caption is an example."""

    record = CocoCaption

    def example_of(self, record: CocoCaption) -> Example[Caption]:
        """The caption with its image."""
        return Example(record.id, record.text, (record.image,), Caption())
