"""VOLTA's HDF5 files: a group per image, with ``features``, ``boxes``, ``obj_id``, ``img_h`` and so on as datasets.

Its extractors and ``large_tsv_to_h5.py`` write them, and many extractors that derive from those. Where image sizes are
left out, they come from a file beside it. Needs ``vlrun[hdf5]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vlrun.errors import DataError, first_few
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.formats.fields import regions_from
from vlrun.features.formats.gqa_hdf5 import HDF5_ERRORS, h5py_for, inside, is_gqa_objects
from vlrun.features.formats.sizes import KINDS, Sizes, read_sizes, size_files
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_MAGIC = b"\x89HDF\r\n\x1a\n"
_NEEDED = ("features", "boxes")


class VoltaHdf5(FeatureSource):
    """The groups of one file, by name."""

    def __init__(self, path: Path) -> None:
        h5py = h5py_for(path)
        try:
            self._opened = h5py.File(path, "r")
            self._names = list(self._opened)
        except HDF5_ERRORS as error:
            raise DataError(f"{path} cannot be read as HDF5, it may be damaged: {error}") from error
        if others := [repr(name) for name in self._names if not isinstance(name, str)]:  # h5py gives bytes then
            raise DataError(f"{path} may be damaged: names of groups are not UTF-8: {', '.join(first_few(others, 5))}")
        self._path = path
        self._size_files = size_files(path.absolute().parent)

    def files(self) -> Sequence[Path]:
        return [self._path, *self._size_files]

    def num_records(self) -> int:
        return len(self._names)

    def describe(self) -> str:
        return f"{self._path.name} ({len(self._names):,} groups)"

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        start = position[0] if position else 0
        for number in range(start, len(self._names)):
            name = self._names[number]
            yield SourceRecord(
                location=f"{self._path}: group '{name}'",
                image_id=canonical_image_id(name),
                load=partial(self._load, name),
                next=(number + 1,),
                share=(number + 1) / len(self._names),
            )

    def _load(self, name: str) -> RegionFeatures:
        image_id = canonical_image_id(name)
        try:
            group = inside(self._opened, name)
            values = {key: inside(group, key)[()] for key in group}
        except HDF5_ERRORS as error:
            raise DataError(f"damaged: {error}") from error
        if not {"img_h", "image_h", "image_height"} & values.keys():
            values["img_h"], values["img_w"] = self._size(image_id)
        return regions_from(image_id, values)

    def _size(self, image_id: str) -> tuple[int, int]:
        if not self._size_files:
            raise DataError(f"has no image size, and boxes need it. Put beside the file: {KINDS}")
        if image_id not in self._sizes:
            raise DataError(f"{', '.join(map(str, self._size_files))}: no size of image '{image_id}'")
        return self._sizes[image_id]

    @cached_property
    def _sizes(self) -> Sizes:
        return read_sizes(self._size_files)


def is_volta_hdf5(path: Path) -> bool:
    """Whether this is an HDF5 file with a group per image; without h5py, whether it can be one."""
    if not path.is_file() or is_gqa_objects(path):
        return False
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
    try:
        import h5py
    except ImportError:
        return True
    try:
        with h5py.File(path, "r") as opened:
            first = opened[next(iter(opened), "/")]
            return isinstance(first, h5py.Group) and all(name in first for name in _NEEDED)
    except HDF5_ERRORS:  # damaged: opening it says so
        return True
