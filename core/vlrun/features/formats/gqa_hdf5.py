"""The object features of GQA's authors: ``gqa_objects_<n>.h5`` and ``gqa_objects_info.json``; needs ``vlrun[hdf5]``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.errors import DataError, first_few
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.origin import FeatureOrigin
from vlrun.files import read_json
from vlrun.interfaces.examples import RegionFeatures

INFO = "gqa_objects_info.json"
_MOST_BYTES = 1 << 30
HDF5_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, MemoryError)
"""What h5py raises over a damaged file, depending on where the damage lies."""


class GqaObjects(FeatureSource):
    """The images of all files, in the order in which they lie there."""

    def __init__(self, path: Path) -> None:
        self._h5py = h5py_for(path)
        self._folder = objects_folder(path)
        self._info_file = self._folder / INFO
        entries = read_json(self._info_file)
        if not isinstance(entries, dict):
            raise DataError(f"{self._info_file} must map image ids to where their features lie")
        wanted = ("file", "idx", "objectsNum", "width", "height")
        for image_id, entry in entries.items():
            if not isinstance(entry, dict) or not all(isinstance(entry.get(name), int) for name in wanted):
                raise DataError(f"{self._info_file}: image '{image_id}': expected whole numbers {', '.join(wanted)}")
        self._images = sorted((entry["file"], entry["idx"], name) for name, entry in entries.items())
        self._entries = entries
        self._files = {number: self._folder / f"gqa_objects_{number}.h5" for number, _, _ in self._images}
        if absent := [str(file) for file in self._files.values() if not file.is_file()]:
            raise DataError(f"{self._info_file} needs {', '.join(first_few(absent, 5))}, which is not there")
        self._opened: dict[int, Any] = {}

    def files(self) -> Sequence[Path]:
        return [self._info_file, *self._files.values()]

    def num_records(self) -> int:
        return len(self._images)

    def describe(self) -> str:
        return f"{self._folder.name} ({len(self._files)} HDF5 files)"

    def origin(self) -> FeatureOrigin:
        return FeatureOrigin("gqa-objects")

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        start = position[0] if position else 0
        for number in range(start, len(self._images)):
            file, row, image_id = self._images[number]
            yield SourceRecord(
                location=f"{self._files[file]}: row {row} (image '{image_id}')",
                image_id=image_id,
                load=partial(self._load, file, row, image_id),
                next=(number + 1,),
                share=(number + 1) / len(self._images),
            )

    def _load(self, number: int, row: int, image_id: str) -> RegionFeatures:
        entry = self._entries[image_id]
        try:
            if number not in self._opened:
                self._opened = {number: self._h5py.File(self._files[number], "r")}  # one at a time: they come in order
            features, boxes = (inside(self._opened[number], key) for key in ("features", "bboxes"))
            count = entry["objectsNum"]
            if not (0 <= row < len(features) and 0 < count <= features.shape[1]):
                raise DataError(f"{INFO} says row {row} and {count} objects; the file has {features.shape[:2]}")
            return RegionFeatures(
                image_id=image_id,
                features=features[row, :count],  # what follows is padding
                boxes=boxes[row, :count].astype(np.float32),
                height=entry["height"],
                width=entry["width"],
            )
        except HDF5_ERRORS as error:
            raise DataError(f"damaged: {error}") from error


def h5py_for(path: Path) -> Any:
    """The module that reads the HDF5 file ``path``; raises DataError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} is HDF5; install what reads it: pip install 'vlrun[hdf5]'") from error
    return h5py


def inside(group: Any, name: str) -> Any:
    """What a file has under ``name`` itself: HDF5 may also point at any other file of the machine.

    Raises:
        DataError: it lies elsewhere, or is larger than the values of an image, or of many, can be.
        KeyError: there is none such.
    """
    import h5py

    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise DataError(f"refused: '{name}' lies in another file")
    found = group[name]
    if isinstance(found, h5py.Dataset):
        if found.external or found.is_virtual:
            raise DataError(f"refused: the values of '{name}' lie in another file")
        if found.nbytes > _MOST_BYTES and not found.chunks and found.id.get_storage_size() < found.nbytes:
            raise DataError(f"damaged: '{name}' has {found.id.get_storage_size():,} of its {found.nbytes:,} bytes")
    return found


def objects_folder(path: Path) -> Path:
    """The folder with the files: ``path`` itself, ``objects`` in it, or the one that the file ``path`` lies in."""
    folder = path if path.is_dir() else path.parent
    return folder / "objects" if (folder / "objects" / INFO).is_file() else folder


def is_gqa_objects(path: Path) -> bool:
    """Whether the list of images lies where GQA's authors have it."""
    return (objects_folder(path) / INFO).is_file()
