"""Annotation files -> examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError, DatasetConfig, Example
from vlrun.data.annotations import AnnotatedDataset, AnnotationFile
from vlrun_pretraining.config import LxmertPretrainingConfig
from vlrun_pretraining.records import CocoCaption, GraphedText, LxmertText
from vlrun_pretraining.rosita.graph import Attribute, Relation, SceneGraph


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
    """One split of LXMERT's pre-training: every caption and every question of the chosen sets is an example."""

    record = LxmertText

    def __init__(self, config: LxmertPretrainingConfig, split: str) -> None:
        """Opens the split.

        Raises:
            DataError: its file is missing or empty, or has no text of the chosen sets.
        """
        super().__init__(config, split)
        self.lines = lines_in_use(self.file, config)
        if config.sources is not None:
            self.protocol["sources"] = ", ".join(config.sources)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example[Caption]:
        return super().__getitem__(int(self.lines[index]))

    def example_of(self, record: LxmertText) -> Example[Caption]:
        """The text with its image, and the answers if it is a question."""
        return Example(record.id, record.text, (record.image,), Caption(record.answers))

    def image_ids(self) -> Iterator[str]:
        """The image of each text, without validating the records."""
        images = list(self.file.image_ids())
        return (images[line] for line in self.lines)


def lines_in_use(file: AnnotationFile, config: DatasetConfig) -> NDArray[np.int64]:
    """The lines of a split that are examples: all of them, or those of the sets that ``sources`` names.

    Raises:
        DataError: there is none.
    """
    sources = config.sources if isinstance(config, LxmertPretrainingConfig) else None
    if sources is None:
        return np.arange(len(file))
    of_line = [record.get("source") for record in file]
    lines = np.flatnonzero([source in sources for source in of_line])
    if not len(lines):
        there = ", ".join(f"{source} ({count:,})" for source, count in sorted(Counter(map(str, of_line)).items()))
        raise DataError(f"{file.path}: there is no text of sources {', '.join(sources)}; there are {there}")
    return lines


@dataclass(frozen=True)
class GraphedCaption(Caption):
    """A text with what it says about which objects.

    Attributes:
        lemmas: of each word.
        graph: in numbers of words.
    """

    lemmas: Sequence[str] = ()
    graph: SceneGraph = field(default_factory=SceneGraph)


class RositaTexts(AnnotatedDataset[Caption, GraphedText]):
    """One split of ROSITA's pre-training: every text is an example."""

    record = GraphedText

    def example_of(self, record: GraphedText) -> Example[Caption]:
        """The text with its image and its scene graph."""
        graph = SceneGraph(
            tuple(record.objects),
            tuple(Attribute(each.object, each.words, each.frequency) for each in record.attributes),
            tuple(
                Relation(each.subject, each.words, each.object, each.of_subject, each.of_object)
                for each in record.relations
            ),
        )
        return Example(record.id, record.text, (record.image,), GraphedCaption(None, record.lemmas, graph))
