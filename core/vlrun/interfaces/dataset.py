"""The dataset interface: annotated examples of one split, without features and without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic

from vlrun.interfaces.examples import Example, Target


class Dataset(ABC, Generic[Target]):
    """Examples of one split, addressed by position.

    Attributes:
        split: name of the split, such as ``testA``.
        protocol: what identifies the data behind a number (file, hash, box source); the core adds it to
            every score.
    """

    split: str
    protocol: dict[str, str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example[Target]:
        """The example at ``index``; cheap enough for a loader worker to call thousands of times a second."""

    def __iter__(self) -> Iterator[Example[Target]]:
        return (self[index] for index in range(len(self)))

    def image_ids(self) -> Iterable[str]:
        """Canonical ids of all images that the split needs; ids may repeat."""
        return (image_id for example in self for image_id in example.image_ids)
