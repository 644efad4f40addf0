"""Wrong captions and images for training pairs: drawn at random, from the batch, or from tables of hard ones.

Rows are those of ``CandidatePool``: captions in the order of the training examples, images in that of their first
caption. No negative is of the example's own image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError, Dataset, Example
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.dataset import Caption
from vlrun_retrieval.hard_negatives import HardNegatives


class Ids:
    """Ids -> rows, as bytes of one width: 8 MB for COCO's captions in every loader worker, where a dict takes 60."""

    def __init__(self, ids: Sequence[str], what: str) -> None:
        """``ids`` are distinct, as those of a candidate pool are."""
        self.what = what
        self.names: NDArray[np.bytes_] = np.array([name.encode() for name in ids])
        self.order = np.argsort(self.names, kind="stable")

    def row(self, name: str) -> int:
        """The row of an id.

        Raises:
            DataError: there is none of that id.
        """
        key = np.asarray(name.encode(), self.names.dtype)  # else a longer id would widen, and so copy, all of them
        place = int(np.searchsorted(self.names, key, sorter=self.order))
        row = int(self.order[min(place, len(self.order) - 1)])
        if self.names[row].decode() != name:
            raise DataError(f"{self.what} '{name}' is none of the training data")
        return row

    def name(self, row: int) -> str:
        """The id of a row."""
        return str(self.names[row].decode())


class CaptionTable:
    """Which captions and images there are to draw from: 14 MB for COCO; the texts themselves stay in their file.

    Attributes:
        owner: (T,) row of each caption's image.
    """

    def __init__(self, dataset: Dataset[Caption], pool: CandidatePool) -> None:
        """Keeps ids and owners of ``pool``, which is that of ``dataset``.

        Raises:
            DataError: there is only one image, so that nothing is wrong for it.
        """
        self.dataset = dataset
        self.owner = pool.owner.astype(np.int32)
        if len(pool.image_ids) < 2:
            raise DataError("training data: retrieval needs at least two images, else there are no negatives")
        self.texts, self.images = Ids(pool.text_ids, "caption"), Ids(pool.image_ids, "image")

    def text(self, row: int) -> str:
        """A caption, read from its file."""
        return self.dataset[row].text

    def image(self, row: int) -> str:
        """The id of an image."""
        return self.images.name(row)


class Negatives(Protocol):
    """Draws what is wrong for an example; ``rng`` is the only source of chance."""

    def caption(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """A text of another image."""

    def image(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """The id of another image."""


class RandomNegatives:
    """Any caption of another image, all equally likely; an image is that of such a caption, as in LXMERT-S's code."""

    def __init__(self, table: CaptionTable) -> None:
        self.table = table

    def caption(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """A caption of any other image."""
        return self.table.text(self._row(example, rng))

    def image(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """The image of such a caption."""
        return self.table.image(int(self.table.owner[self._row(example, rng)]))

    def _row(self, example: Example[Caption], rng: np.random.Generator) -> int:
        own = self.table.images.row(example.image_ids[0])
        while True:  # an image has few of all captions, so one round nearly always
            row = int(rng.integers(len(self.table.owner)))
            if self.table.owner[row] != own:
                return row


class HardTables:
    """Any of the candidates kept for an image or a caption, all equally likely."""

    def __init__(self, table: CaptionTable, negatives: HardNegatives) -> None:
        self.table, self.negatives = table, negatives

    def caption(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """One of the captions kept for the image of the example."""
        row = self.negatives.texts_of_images[self.table.images.row(example.image_ids[0])]
        return self.table.text(int(row[rng.integers(len(row))]))

    def image(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """One of the images kept for the caption."""
        row = self.negatives.images_of_texts[self.table.texts.row(example.id)]
        return self.table.image(int(row[rng.integers(len(row))]))


class BatchNegatives:
    """Captions and images of the other images in a batch; where it has no other, those of ``otherwise``."""

    def __init__(self, batch: Sequence[Example[Caption]], otherwise: Negatives) -> None:
        self.batch, self.otherwise = batch, otherwise

    def caption(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """The caption of another image in the batch."""
        others = self._others(example)
        return others[int(rng.integers(len(others)))].text if others else self.otherwise.caption(example, rng)

    def image(self, example: Example[Caption], rng: np.random.Generator) -> str:
        """Another image in the batch."""
        others = self._others(example)
        return others[int(rng.integers(len(others)))].image_ids[0] if others else self.otherwise.image(example, rng)

    def _others(self, example: Example[Caption]) -> list[Example[Caption]]:
        return [other for other in self.batch if other.image_ids != example.image_ids]
