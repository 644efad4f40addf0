"""Annotation files -> examples."""

from __future__ import annotations

from dataclasses import dataclass

from vlrun import Example
from vlrun.data.annotations import AnnotatedDataset
from vlrun_nlvr2.records import ImagePairStatement


@dataclass(frozen=True)
class Statement:
    """The truth of a statement and what its scores are grouped by (target ``"statement"``).

    Attributes:
        label: whether it is true of its two images.
        group: statements with the same sentence about pairs of one image set share it; the unit of consistency.
        subsets: ``balanced``, ``unbalanced``; None where the source does not say.
        categories: linguistic phenomena of the sentence; None unless they were annotated.
    """

    label: bool
    group: str
    subsets: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None


class Statements(AnnotatedDataset[Statement, ImagePairStatement]):
    """One split of NLVR2: every statement about a pair of images is an example."""

    record = ImagePairStatement

    def example_of(self, record: ImagePairStatement) -> Example[Statement]:
        target = None
        if record.label is not None:
            target = Statement(record.label, record.group, record.subsets, record.categories)
        return Example(record.id, record.text, record.images, target)
