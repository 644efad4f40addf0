"""Annotation files -> examples."""

from __future__ import annotations

from dataclasses import dataclass

from vlrun import Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_retrieval.records import ImageCaption


@dataclass(frozen=True)
class Caption:
    """What a caption belongs to (target ``"caption"``): the image is that of the example.

    Attributes:
        position: which caption of its image it is, from 0.
    """

    position: int


class Captions(AnnotatedDataset[Caption, ImageCaption]):
    """One split of COCO captions or Flickr30k: every caption is an example."""

    record = ImageCaption

    def example_of(self, record: ImageCaption) -> Example[Caption]:
        """A caption with its image."""
        return Example(record.id, record.text, (record.image,), Caption(record.position))
