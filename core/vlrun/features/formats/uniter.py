"""UNITER's image databases: an LMDB whose keys are names of ``.npz`` files, with normalised boxes in half precision.

Values are packed with msgpack, alone or in an LZ4 frame, or are whole ``.npz`` files where the folder's name ends with
``_compressed``. They have no image sizes: those come from a file beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.errors import DataError
from vlrun.features.formats.lmdb_files import LmdbRecords, first_value
from vlrun.features.formats.npz import DAMAGE, MOST_BYTES, NpzArrays
from vlrun.features.formats.sizes import KINDS, Sizes, read_sizes, size_files
from vlrun.features.origin import FeatureOrigin
from vlrun.foreign.json import parse_json
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_ZIP, _LZ4 = b"PK\x03\x04", b"\x04\x22\x4d\x18"
_LIMITS = re.compile(r"feat_(?:th[\d.]+_max(?P<most>\d+)_min(?P<fewest>\d+)|numbb(?P<fixed>\d+))")
_PREFIX = re.compile(r"(?:coco_(?P<part>train2014|val2014|test2015)|visual_grounding_(?:det_coco|coco_gt))_(?=\d{12}$)")
_COLLECTIONS = re.compile(r"(?:flickr30k|vg|nlvr2)_(?=.)")


class UniterLmdb(LmdbRecords):
    """The images of one database."""

    list_keys = (b"__keys__",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        folder = path if path.is_dir() else path.parent
        self._folder = folder.absolute()
        self._size_files = size_files(self._folder, self._folder.parent)
        if not self._size_files:
            raise DataError(
                f"{path}: databases of UNITER have no image sizes, and boxes in pixels need them. Put into {folder} or "
                f"the folder above: {KINDS}"
            )

    @cached_property
    def _sizes(self) -> Sizes:
        return read_sizes(self._size_files)

    def files(self) -> Sequence[Path]:
        return [self._file, *self._size_files]

    def origin(self) -> FeatureOrigin:
        match = _LIMITS.match(self._folder.name)
        if match is None:
            return FeatureOrigin("bua-caffe")
        return FeatureOrigin("bua-caffe", boxes=match["fixed"] or f"{match['fewest']}-{match['most']}")

    def read_list(self, content: bytes) -> Any:
        return parse_json(content)

    def read_value(self, content: bytes) -> dict[str, Any]:
        if content.startswith(_ZIP):
            return _read_npz(content)
        return _read_msgpack(_unpacked(content) if content.startswith(_LZ4) else content)

    def image_id(self, key: str, values: dict[str, Any]) -> str:
        return uniter_image_id(key)

    def decode(self, image_id: str, values: dict[str, Any]) -> RegionFeatures:
        features, boxes = _array(values, "features"), _array(values, "norm_bb")
        if boxes.ndim != 2 or boxes.shape[1] < 4:
            raise DataError(f"'norm_bb' has shape {boxes.shape}, expected (regions, 6)")
        if not (np.abs(boxes[:, :4]) <= 1.01).all():
            raise DataError(f"'norm_bb' has values up to {np.abs(boxes[:, :4]).max():g}, expected 0 to 1")
        if image_id not in self._sizes:
            raise DataError(f"{', '.join(map(str, self._size_files))}: no size of image '{image_id}'")
        height, width = self._sizes[image_id]
        corners = boxes[:, :4].astype(np.float32) * np.array([width, height, width, height], np.float32)
        return RegionFeatures(
            image_id,
            features,
            corners,
            height,
            width,
            class_ids=_classes(values, len(features)),
            class_scores=_scores(values, len(features)),
        )


def uniter_image_id(key: str) -> str:
    """The canonical id behind the name of a file: ``coco_val2014_000000000042.npz`` is that COCO image.

    Images of referring expressions come without their part; all are of train2014.
    """
    name = canonical_image_id(key.removesuffix(".npz"))
    if match := _PREFIX.match(name):
        return f"COCO_{match['part'] or 'train2014'}_{name[match.end() :]}"
    rest = _COLLECTIONS.sub("", name, count=1)
    return rest.lstrip("0") if rest != name and rest.isdecimal() and int(rest) else rest


def _array(values: dict[str, Any], name: str) -> Any:
    array = values.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"has no array '{name}'; it holds {', '.join(map(str, values)) or 'nothing'}")
    return array


def _scores(values: dict[str, Any], count: int) -> Any:
    scores = values.get("conf")
    if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.size != count:
        return None
    return scores.reshape(-1).astype(np.float32)


def _classes(values: dict[str, Any], count: int) -> Any:
    """The likeliest class of each region, counted without the background, which comes first in ``soft_labels``."""
    labels = values.get("soft_labels")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind != "f" or labels.ndim != 2 or labels.shape[1] < 2:
        return None
    if len(labels) != count or not labels.any(axis=1).all():  # not filled in
        return None
    return labels[:, 1:].argmax(1).astype(np.int32)


def _read_npz(content: bytes) -> dict[str, Any]:
    try:
        with NpzArrays(content) as arrays:
            return {name: arrays[name] for name in ("features", "norm_bb", "conf", "soft_labels") if name in arrays}
    except DAMAGE as error:
        raise DataError(f"damaged npz: {error}") from error


def _unpacked(content: bytes) -> bytes:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError as error:
        raise DataError("compressed with LZ4; install what reads it: pip install 'vlrun[uniter]'") from error
    try:
        frame = LZ4FrameDecompressor()
        unpacked = bytes(frame.decompress(content, MOST_BYTES))
    except (EOFError, RuntimeError, MemoryError) as error:  # it may announce any size
        raise DataError(f"damaged LZ4 frame: {error}") from error
    if not frame.eof:
        raise DataError(f"damaged LZ4 frame: it ends early, or unpacks to more than {MOST_BYTES:,} bytes")
    return unpacked


def _read_msgpack(content: bytes) -> dict[str, Any]:
    try:
        import msgpack
    except ImportError as error:
        raise DataError("packed with msgpack; install what reads it: pip install 'vlrun[uniter]'") from error
    try:
        values = msgpack.unpackb(content, raw=False, object_hook=_unpack_array, strict_map_key=False)
    except DataError:
        raise
    except Exception as error:  # a damaged one can fail in any way
        raise DataError(f"damaged msgpack: {type(error).__name__}: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"holds {type(values).__name__}, expected a dict")
    return {name.decode() if isinstance(name, bytes) else str(name): value for name, value in values.items()}


def _unpack_array(packed: dict[Any, Any]) -> Any:
    """An array as msgpack-numpy packs it; those that hold pickled objects are refused."""
    packed = {name.decode() if isinstance(name, bytes) else name: value for name, value in packed.items()}
    if not packed.get("nd"):
        return packed
    kind = packed.get("kind", b"")
    if kind not in (b"", ""):
        raise DataError(f"refused: holds an array of kind {kind!r}; a file of region features holds numbers alone")
    return np.frombuffer(packed["data"], np.dtype(packed["type"])).reshape(packed["shape"])


def is_uniter_lmdb(path: Path) -> bool:
    """Whether this is an LMDB whose keys are names of ``.npz`` files."""
    found = first_value(path)
    return found is not None and found[0].endswith(b".npz")
