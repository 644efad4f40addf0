"""MMF's folders: ``NAME.npy`` with the features of an image, and ``NAME_info.npy`` with a pickled dict about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.errors import DataError, first_few
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.formats.fields import regions_from
from vlrun.foreign.pickled_arrays import read_object_array
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_INFO = "_info.npy"


class MmfFolder(FeatureSource):
    """The images of a folder and the folders in it, by name."""

    def __init__(self, path: Path) -> None:
        self._folder = path
        files = {str(file.relative_to(path)) for file in path.rglob("*.npy")} if path.is_dir() else set()
        infos = {name for name in files if name.endswith(_INFO)}
        self._names = sorted(name.removesuffix(".npy") for name in files - infos)
        if not self._names:
            raise DataError(f"{path} is no folder with .npy files")
        if alone := [name for name in self._names if name + _INFO not in infos]:
            raise DataError(
                f"{path}: {len(alone):,} files have no {_INFO} with boxes and image size beside them: "
                f"{', '.join(first_few([f'{name}.npy' for name in alone], 5))}"
            )
        if lost := sorted(infos.difference(name + _INFO for name in self._names)):
            raise DataError(f"{path}: {len(lost):,} files belong to no features: {', '.join(first_few(lost, 5))}")

    def files(self) -> Sequence[str]:
        return [os.path.join(self._folder, name + ending) for name in self._names for ending in (".npy", _INFO)]

    def num_records(self) -> int:
        return len(self._names)

    def describe(self) -> str:
        return f"{self._folder.name} ({len(self._names):,} npy files)"

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        start = position[0] if position else 0
        for number in range(start, len(self._names)):
            name = self._names[number]
            yield SourceRecord(
                location=str(self._folder / f"{name}.npy"),
                image_id=canonical_image_id(name),
                load=partial(self._load, name),
                next=(number + 1,),
                share=(number + 1) / len(self._names),
            )

    def _load(self, name: str) -> RegionFeatures:
        try:
            features = np.load(self._folder / f"{name}.npy", allow_pickle=False)
            info = read_object_array((self._folder / f"{name}{_INFO}").read_bytes())
        except (OSError, EOFError, ValueError, MemoryError) as error:
            raise DataError(f"damaged: {error}") from error
        except DataError as error:
            raise DataError([f"{Path(name).name}{_INFO}: {problem}" for problem in error.problems]) from error
        if not isinstance(info, dict):
            raise DataError(f"{Path(name).name}{_INFO} holds {type(info).__name__}, expected a dict")
        return regions_from(canonical_image_id(name), {**info, "features": features})


def is_mmf_folder(path: Path) -> bool:
    """Whether this is a folder with ``*_info.npy`` files in it, or in its folders."""
    return path.is_dir() and any(next(path.glob(f"{depth}*{_INFO}"), None) for depth in ("", "*/"))
