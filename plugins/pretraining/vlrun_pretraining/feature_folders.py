"""The folders of features that ROSITA is pre-trained on, as one source: images of two of them may have one name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vlrun import DataError, RegionFeatures
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.formats.npz import NpzFolder
from vlrun_pretraining.sources import ROSITA_FEATURES, ROSITA_PREFIXES


class RositaFolders(FeatureSource):
    """``mscoco_bua_r101_fix36`` and its like, one after the other; those of Conceptual Captions and SBU with a prefix.

    So ids are those of the dataset ``rosita-pretraining``. Folders that are not there are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders = {
            source: NpzFolder(path / name) for source, name in ROSITA_FEATURES.items() if (path / name).is_dir()
        }
        if not self._folders:
            raise DataError(f"{path} has none of the folders {', '.join(ROSITA_FEATURES.values())}")

    def files(self) -> Sequence[str | os.PathLike[str]]:
        return [file for folder in self._folders.values() for file in folder.files()]

    def num_records(self) -> int:
        return sum(folder.num_records() for folder in self._folders.values())

    def left_out(self) -> Sequence[str]:
        return [file for folder in self._folders.values() for file in folder.left_out()]

    def describe(self) -> str:
        return f"{self._path.name} ({', '.join(folder.describe() for folder in self._folders.values())})"

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        first, *rest = position or (0,)
        done, total = 0, self.num_records()
        for number, (source, folder) in enumerate(self._folders.items()):
            if number >= first:
                for record in folder.records(rest if number == first else ()):
                    image_id = ROSITA_PREFIXES[source] + record.image_id
                    share = (done + record.share * folder.num_records()) / total
                    load = partial(_renamed, record, image_id)
                    yield replace(record, image_id=image_id, load=load, next=(number, *record.next), share=share)
            done += folder.num_records()


def is_rosita_folders(path: Path) -> bool:
    """Whether this is a folder with several of those folders; one of them alone is a folder of ``.npz`` files."""
    return sum((path / name / "npz_files").is_dir() for name in ROSITA_FEATURES.values()) > 1


def _renamed(record: SourceRecord, image_id: str) -> RegionFeatures:
    return replace(record.load(), image_id=image_id)
