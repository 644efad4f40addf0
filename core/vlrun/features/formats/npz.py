"""One ``.npz`` per image: ROSITA's keys (``x``, ``boxes``) and those of bottom-up-attention.pytorch (``x``, ``bbox``).

ROSITA names the files ``<image file>.npz`` (``COCO_val2014_000000058350.jpg.npz``), the other ``<stem>.npz``.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.errors import DataError
from vlrun.features.formats import FeatureSource, SourceRecord, is_junk
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_OPTIONAL = {
    "objects_id": ("class_ids", np.int32),
    "attrs_id": ("attribute_ids", np.int32),
    "objects_conf": ("class_scores", np.float32),
    "attrs_conf": ("attribute_scores", np.float32),
}


class NpzFolder(FeatureSource):
    """The files of a folder, or of the ``npz_files`` in it, by name."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(f"{path} does not exist")
        self._is_file = path.is_file()
        self._folder = path.parent if path.is_file() else _npz_folder(path)
        self._names = [path.name] if path.is_file() else _npz_names(path)
        if not self._names:
            raise DataError(f"{self._folder} holds no .npz files")
        self._description = path.name if path.is_file() else f"{path.name} ({len(self._names):,} npz files)"

    def files(self) -> Sequence[str]:
        return [os.path.join(self._folder, name) for name in self._names]

    def num_records(self) -> int:
        return len(self._names)

    def left_out(self) -> Sequence[str]:
        known = set(self._names)
        return () if self._is_file else [name for name in _names(self._folder) if name not in known]

    def describe(self) -> str:
        return self._description

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        start = position[0] if position else 0
        for number in range(start, len(self._names)):
            file = self._folder / self._names[number]
            yield SourceRecord(
                location=str(file),
                image_id=canonical_image_id(file.name.removesuffix(".npz")),
                load=partial(read_npz, file),
                next=(number + 1,),
                share=(number + 1) / len(self._names),
            )


def read_npz(file: Path) -> RegionFeatures:
    """The image in a file; raises DataError where an array is missing or the file is damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError("not an .npz file")
            return _regions(canonical_image_id(file.name.removesuffix(".npz")), arrays)
    except (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"damaged: {error}") from error


def _regions(image_id: str, arrays: Mapping[str, Any]) -> RegionFeatures:
    boxes_key = "boxes" if "boxes" in arrays else "bbox"
    wanted = ("x", boxes_key, "image_h", "image_w")
    if absent := [f"'{key}'" for key in wanted if key not in arrays]:
        hint = " (written without features, in bbox-only mode?)" if "'x'" in absent else ""
        raise DataError(f"has no {' and no '.join(absent)}{hint}")
    if "filename" in arrays and canonical_image_id(str(arrays["filename"])) != image_id:
        raise DataError(f"'filename' says {arrays['filename']}, the file is named after '{image_id}'")
    boxes = arrays[boxes_key]
    for key in ("num_boxes", "num_bbox"):
        if key in arrays and _scalar(arrays, key) != len(boxes):
            raise DataError(f"'{key}' is {_scalar(arrays, key)}, '{boxes_key}' holds {len(boxes)}")
    # The 'info' of bottom-up-attention.pytorch is a pickle: it could run code, and nothing in it is needed.
    optional = {name: _vector(arrays, key, kind) for key, (name, kind) in _OPTIONAL.items() if key in arrays}
    return RegionFeatures(
        image_id=image_id,
        features=_features(_numbers(arrays, "x"), len(boxes)),
        boxes=_numbers(arrays, boxes_key).astype(np.float32, copy=False),
        height=_scalar(arrays, "image_h"),
        width=_scalar(arrays, "image_w"),
        **optional,
    )


def _features(table: Any, num_boxes: int) -> Any:
    """With a row per region: OpenVQA's and MCAN's released files have a column each."""
    is_turned = table.ndim == 2 and table.shape[0] != num_boxes == table.shape[1]
    return np.ascontiguousarray(table.T) if is_turned else table


def _numbers(arrays: Mapping[str, Any], key: str) -> Any:
    array = arrays[key]
    if array.dtype.kind not in "fiu":
        raise DataError(f"'{key}' holds {array.dtype}, not numbers")
    return array


def _vector(arrays: Mapping[str, Any], key: str, kind: type) -> Any:
    return _numbers(arrays, key).reshape(-1).astype(kind)


def _scalar(arrays: Mapping[str, Any], key: str) -> int:
    array = np.asarray(_numbers(arrays, key)).reshape(-1)
    if array.size != 1 or array[0] != int(array[0]):
        raise DataError(f"'{key}' is {array[:4].tolist()}, expected one whole number")
    return int(array[0])


def is_npz(path: Path) -> bool:
    """Whether this is an ``.npz`` file or a folder with some."""
    return path.suffix == ".npz" if path.is_file() else bool(_npz_names(path))


def _npz_folder(path: Path) -> Path:
    return path / "npz_files" if (path / "npz_files").is_dir() else path


def _npz_names(path: Path) -> list[str]:
    return [name for name in _names(_npz_folder(path)) if name.endswith(".npz")]


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not is_junk(entry.name))
