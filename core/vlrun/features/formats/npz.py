"""One ``.npz`` per image: ROSITA's keys (``x``, ``boxes``) and those of bottom-up-attention.pytorch (``x``, ``bbox``).

ROSITA names the files ``<image file>.npz`` (``COCO_val2014_000000058350.jpg.npz``), the other ``<stem>.npz``.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.compression import crc32, inflate
from vlrun.features.formats import FeatureSource, SourceRecord, is_junk
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_OPTIONAL = {
    "objects_id": ("class_ids", np.int32),
    "attrs_id": ("attribute_ids", np.int32),
    "objects_conf": ("class_scores", np.float32),
    "attrs_conf": ("attribute_scores", np.float32),
}


_OF_ARCHIVES = (zipfile.BadZipFile, zlib.error, struct.error)
DAMAGE = (OSError, EOFError, ValueError, IndexError, RuntimeError, MemoryError, *_OF_ARCHIVES)
"""What reading damaged arrays can raise."""

MOST_BYTES = 1 << 30
"""Of what one image has; a small file of somebody else's may unpack to a thousand times its size."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # before each entry: its mark, and how long its name and extra fields are
_KNOWN_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


class NpzArrays(Mapping[str, Any]):
    """The arrays in the content of an ``.npz`` file, each read when it is asked for; none of Python objects.

    ``numpy.load`` reads pieces through several layers, and parses every header anew: this takes a quarter of its time.
    """

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._archive = zipfile.ZipFile(io.BytesIO(content))
        self._names = {entry.filename.removesuffix(".npy"): entry for entry in self._archive.infolist()}

    def __enter__(self) -> NpzArrays:
        return self

    def __exit__(self, *of_error: object) -> None:
        self._archive.close()

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __getitem__(self, key: str) -> NDArray[Any]:
        content = self._read(self._names[key])
        width = 2 if content[6] == 1 else 4
        start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
        shape, is_fortran, dtype = _read_header(bytes(content[:start]))
        end = start + math.prod(shape) * dtype.itemsize
        if end > len(content):
            raise ValueError(f"'{key}' is cut short")
        array = np.empty(math.prod(shape), dtype)  # of its own: in the file it is not aligned
        array.view(np.uint8)[:] = content[start:end]
        return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)

    def _read(self, entry: zipfile.ZipInfo) -> memoryview:
        """The bytes of an entry, whose checksum is right: those that are not compressed are there already."""
        if entry.file_size > MOST_BYTES:
            raise ValueError(f"'{entry.filename}' takes {entry.file_size:,} bytes, and belongs to one image")
        if entry.compress_type not in _KNOWN_KINDS or entry.flag_bits & _ENCRYPTED:
            return memoryview(self._archive.read(entry))  # which refuses it, or reads it at its leisure
        place = entry.header_offset + _LOCAL_HEADER.size
        mark, name, extra = _LOCAL_HEADER.unpack(self._content[entry.header_offset : place])
        start = place + name + extra
        content = self._content[start : start + entry.compress_size]
        if entry.compress_type == zipfile.ZIP_DEFLATED and entry.file_size:
            content = memoryview(inflate(content, entry.file_size))
        if mark != b"PK\3\4" or len(content) != entry.file_size or crc32(content) != entry.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {entry.filename!r}")
        return content


@lru_cache(256)
def _read_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which could run code")
    return shape, is_fortran, dtype


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
            name = self._names[number]
            file, image_id = os.path.join(self._folder, name), canonical_image_id(name.removesuffix(".npz"))
            yield SourceRecord(
                location=file,
                image_id=image_id,
                load=partial(read_npz, file, image_id),
                next=(number + 1,),
                share=(number + 1) / len(self._names),
            )


def read_npz(file: str, image_id: str) -> RegionFeatures:
    """The image in a file; raises DataError where an array is missing or the file is damaged."""
    try:
        with open(file, "rb", buffering=0) as opened, NpzArrays(opened.read()) as arrays:  # in one piece
            return _regions(image_id, arrays)
    except DAMAGE as error:
        raise DataError(f"damaged: {error}") from error


def _regions(image_id: str, arrays: Mapping[str, Any]) -> RegionFeatures:
    boxes_key = "boxes" if "boxes" in arrays else "bbox"
    wanted = ("x", boxes_key, "image_h", "image_w")
    if absent := [f"'{key}'" for key in wanted if key not in arrays]:
        hint = " (written without features, in bbox-only mode?)" if "'x'" in absent else ""
        raise DataError(f"has no {' and no '.join(absent)}{hint}")
    if "filename" in arrays and canonical_image_id(str(arrays["filename"])) != image_id:
        raise DataError(f"'filename' says {arrays['filename']}, the file is named after '{image_id}'")
    boxes = _numbers(arrays, boxes_key)
    for key in ("num_boxes", "num_bbox"):
        if key in arrays and (count := _scalar(arrays, key)) != len(boxes):
            raise DataError(f"'{key}' is {count}, '{boxes_key}' holds {len(boxes)}")
    # The 'info' of bottom-up-attention.pytorch is a pickle: it could run code, and nothing in it is needed.
    optional = {name: _vector(arrays, key, kind) for key, (name, kind) in _OPTIONAL.items() if key in arrays}
    return RegionFeatures(
        image_id=image_id,
        features=_features(_numbers(arrays, "x"), len(boxes)),
        boxes=boxes.astype(np.float32, copy=False),
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
