"""What competes in retrieval: all images and all texts of a split."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vlrun import DataError
from vlrun.blocks.predictions import listed
from vlrun.data.splits import Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlrun import Dataset

    Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class CandidatePool:
    """Images and texts by row; every text belongs to one image.

    Attributes:
        image_ids: (I) canonical ids, in the order in which the split first names them.
        text_ids, texts: (T) ids of the examples, and their texts, in the order of the split.
        owner: (T,) row of each text's image.
    """

    image_ids: tuple[str, ...]
    text_ids: tuple[str, ...]
    texts: tuple[str, ...]
    owner: Ints

    @classmethod
    def of(cls, dataset: Dataset[Any]) -> CandidatePool:
        """Reads a dataset, of which every example is one text with one image.

        Raises:
            DataError: an example has no image or several, or an id is there twice.
        """
        rows: dict[str, int] = {}
        ids, texts, owner = [], [], []
        for example in dataset:
            if len(example.image_ids) != 1:
                raise DataError(
                    f"split '{dataset.split}': example '{example.id}' has {len(example.image_ids)} images; retrieval "
                    "takes texts of one image each"
                )
            owner.append(rows.setdefault(example.image_ids[0], len(rows)))
            ids.append(example.id)
            texts.append(example.text)
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if problems := listed(twice, "are those of several texts", split=dataset.split, unit="ids"):
            raise DataError([*problems, "do splits that are joined overlap?"])
        return cls(tuple(rows), tuple(ids), tuple(texts), np.array(owner, np.int64))

    def rows_of_first(self, images: int) -> Ints:
        """Rows of the texts of the first ``images`` images, ascending."""
        return np.flatnonzero(self.owner < images)

    def first(self, images: int) -> CandidatePool:
        """The first ``images`` images with their texts: the pool of the examples at ``rows_of_first``."""
        rows = self.rows_of_first(images)
        return CandidatePool(
            self.image_ids[:images],
            tuple(self.text_ids[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            self.owner[rows],
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all ids and texts, in order."""
        digest = hashlib.blake2b(digest_size=8)
        for image_id in self.image_ids:
            digest.update(image_id.encode() + b"\x1e")
        for text_id, text, row in zip(self.text_ids, self.texts, self.owner.tolist(), strict=True):
            digest.update(f"{text_id}\x1f{text}\x1f{row}\x1e".encode())
        return digest.hexdigest()

    def texts_of(self, image: int) -> Ints:
        """Rows of the texts of an image, ascending."""
        order, ends = self._by_image
        return order[ends[image - 1] if image else 0 : ends[image]]

    @cached_property
    def _by_image(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.owner, kind="stable")
        return order, np.cumsum(np.bincount(self.owner, minlength=len(self.image_ids)))


class SplitPools:
    """The pools of a run's splits. Each split is read once: reading 155,000 captions takes longer than ranking them.

    Datasets are told apart by identity and held, so nothing is asked of their hash or equality. Like all that reads
    them by position, this relies on a dataset not changing while a run uses it.
    """

    def __init__(self) -> None:
        self._pools: dict[int, tuple[Dataset[Any], CandidatePool]] = {}  # by id(), which the dataset held keeps valid
        self._parts: dict[tuple[int, int], Dataset[Any]] = {}

    def pool(self, dataset: Dataset[Any]) -> CandidatePool:
        """The pool of a dataset; errors as of ``CandidatePool.of``."""
        if id(dataset) not in self._pools:
            self._remember(dataset, CandidatePool.of(dataset))
        return self._pools[id(dataset)][1]

    def first_images(self, dataset: Dataset[Any], limit: int) -> Dataset[Any]:
        """The texts of the first ``limit`` images of a split, always the same object; the split if it has no more."""
        pool, key = self.pool(dataset), (id(dataset), limit)
        if len(pool.image_ids) <= limit:
            return dataset
        if key not in self._parts:
            rows = pool.rows_of_first(limit).tolist()
            part = Selection(dataset, rows, f"between epochs only the first {limit:,} images compete")
            self._remember(part, pool.first(limit))
            self._parts[key] = part
        return self._parts[key]

    def __reduce__(self) -> tuple[type[SplitPools], tuple[()]]:
        """Travels to loader workers empty: they need no pools."""
        return SplitPools, ()

    def _remember(self, dataset: Dataset[Any], pool: CandidatePool) -> None:
        self._pools[id(dataset)] = (dataset, pool)
