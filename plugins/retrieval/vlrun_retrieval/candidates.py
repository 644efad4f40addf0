"""What competes in retrieval: all images and all texts of a split."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

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
        """Every example is one text with one image. A dataset is read once, however often it is asked for.

        Raises:
            DataError: an example has no image or several, or an id is there twice.
        """
        if (known := _POOLS.get(dataset)) is not None and len(known.texts) == len(dataset):
            return known
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
        pool = _POOLS[dataset] = cls(tuple(rows), tuple(ids), tuple(texts), np.array(owner, np.int64))
        return pool

    @cached_property
    def fingerprint(self) -> str:
        """Of all ids and texts, in order."""
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


def first_images(dataset: Dataset[Any], limit: int) -> Dataset[Any]:
    """The texts of the first ``limit`` images of a split; the split itself if it has no more."""
    kept = np.flatnonzero(CandidatePool.of(dataset).owner < limit).tolist()
    if len(kept) == len(dataset):
        return dataset
    parts = _PARTS.setdefault(dataset, {})
    if limit not in parts:
        parts[limit] = Selection(dataset, kept, f"between epochs only the first {limit:,} images compete")
    return parts[limit]


_POOLS: WeakKeyDictionary[Dataset[Any], CandidatePool] = WeakKeyDictionary()
"""What was read of each dataset; reading 155,000 captions takes longer than ranking them."""

_PARTS: WeakKeyDictionary[Dataset[Any], dict[int, Selection]] = WeakKeyDictionary()
