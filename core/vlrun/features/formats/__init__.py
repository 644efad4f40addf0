"""Region-feature files of other systems. A plugin adds a format with the hook ``vlrun_feature_formats``."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlrun.features.origin import UNKNOWN, FeatureOrigin

if TYPE_CHECKING:
    from vlrun.interfaces.examples import RegionFeatures


_JUNK = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini", re.IGNORECASE)


def is_junk(name: str) -> bool:
    """Whether a file is one that systems leave in folders by themselves."""
    return _JUNK.fullmatch(name) is not None


@dataclass(frozen=True)
class SourceRecord:
    """One image of a source, not decoded yet.

    Attributes:
        location: file and line or entry, for messages.
        image_id: canonical id; empty where the record has none, and ``load`` raises.
        load: decodes the image; raises DataError, without file name, where it is damaged.
        next: where to continue after this record; plain JSON for ``FeatureSource.records``.
        share: how much of the source lies before ``next``, in [0, 1].
    """

    location: str
    image_id: str
    load: Callable[[], RegionFeatures]
    next: Sequence[Any]
    share: float


class FeatureSource(ABC):
    """An opened source, which streams its records and holds one of them at a time."""

    @abstractmethod
    def files(self) -> Sequence[str | os.PathLike[str]]:
        """All files behind the source; a build continues only if none of them changed."""

    @abstractmethod
    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        """The records after ``position``, the ``next`` of an earlier one; all of them by default.

        Damaged records are yielded too.

        Raises:
            DataError: the source cannot go on, or, at its end, it is not complete.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for the manifest, such as ``mscoco_bua_r101_fix36 (123,287 npz files)``."""

    def left_out(self) -> Sequence[str]:
        """Names of files that lie beside the source's and are not read."""
        return ()

    def origin(self) -> FeatureOrigin:
        """What made the features, as far as the layout tells."""
        return UNKNOWN

    def num_records(self) -> int | None:
        """The number of records, if it is known without reading them."""
        return None


class SourceFormat(Protocol):
    """What an import needs of a format; a plugin declares one as a ``FeatureFormat``."""

    @property
    def name(self) -> str:
        """As in ``runner features build --from NAME``."""
        ...

    @property
    def summary(self) -> str:
        """What has to be given as SOURCE, in one line."""
        ...

    def open(self, path: Path) -> FeatureSource:
        """The opened source at ``path``; raises DataError."""
        ...

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder looks like this format, after a quick look."""
        ...
