"""The content of a store: one value of fixed layout per image, and two records that describe the whole.

A value is a header of 32 bytes, then boxes (float32), features (float16 or float32) and, where the source had them,
class ids, attribute ids (int32), class scores and attribute scores (float32); all little-endian, C order, no padding.
The key is the canonical image id in UTF-8. Keys that begin with a zero byte describe the store.
"""

from __future__ import annotations

import hashlib
import json
import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.compression import crc32
from vlrun.foreign.json import parse_json
from vlrun.interfaces.examples import RegionFeatures

FORMAT_VERSION = 1
BOX_FORMAT = "xyxy pixels"
DTYPES = ("float16", "float32")
MAX_KEY_BYTES = 511  # of LMDB

MANIFEST_KEY = b"\x00manifest"
IDS_KEY = b"\x00ids"
PROGRESS_KEY = b"\x00progress"

_FLOAT16_END = 65520.0  # from here on float16 rounds to infinity
_MAGIC = b"VLRF"
_HEADER = struct.Struct("<4sBBBxIIII4xI")  # the checksum comes last
_CHECKED_BYTES = _HEADER.size - 4
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f2"), 2: np.dtype("<f4")}  # by the code in the header
CLASS_FIELDS: Mapping[str, str] = {
    "class_ids": "<i4",
    "attribute_ids": "<i4",
    "class_scores": "<f4",
    "attribute_scores": "<f4",
}
"""What a detector says of each region beside features and box: name of the array -> type."""


@dataclass(frozen=True)
class Manifest:
    """The description of a store, kept in it.

    Attributes:
        count: number of images; min_regions, max_regions: of one image.
        feature_width: D; dtype: ``float16`` or ``float32``; box_format: always ``xyxy pixels``.
        extractor, extractor_weights, boxes: what made the features, as ``FeatureOrigin`` has it; empty if unknown.
        source_format, source: what was imported; source_signature: hash of its file names, sizes, dates and options.
        fingerprint: hash of all ids and record checksums: equal content gives an equal fingerprint.
        created: date and time, UTC.
        skipped: damaged records of the source that were left out; ids: where other ids than its own come from.
    """

    count: int
    min_regions: int
    max_regions: int
    feature_width: int
    dtype: str
    extractor: str
    source_format: str
    source: str
    source_signature: str
    fingerprint: str
    created: str
    extractor_weights: str = ""
    boxes: str = ""
    skipped: int = 0
    ids: str = ""
    box_format: str = BOX_FORMAT
    format_version: int = FORMAT_VERSION


class Header(NamedTuple):
    """Decoded first bytes of a value; ``optional`` has one bit per array of ``CLASS_FIELDS``."""

    num_regions: int
    feature_width: int
    dtype: np.dtype[Any]
    height: int
    width: int
    optional: int
    checksum: int

    @property
    def features_at(self) -> int:
        """Where the features begin."""
        return _HEADER.size + 16 * self.num_regions

    @property
    def features_size(self) -> int:
        """Bytes of the features."""
        return self.num_regions * self.feature_width * self.dtype.itemsize

    @property
    def value_size(self) -> int:
        """Bytes of the whole value."""
        return self.features_at + self.features_size + 4 * self.num_regions * self.optional.bit_count()


def encode_key(image_id: str) -> bytes:
    """The key of an image; raises DataError for an id that cannot be a key."""
    key = image_id.encode(errors="replace")
    if not 0 < len(key) <= MAX_KEY_BYTES or any(byte < 32 for byte in key) or key.decode() != image_id:
        raise DataError(
            f"{image_id[:80]!r} cannot be an image id: 1 to {MAX_KEY_BYTES} bytes of UTF-8 without control characters "
            "are needed"
        )
    return key


def encode(regions: RegionFeatures, dtype: str) -> bytes:
    """The value of one image; raises DataError where ``dtype`` cannot hold the features."""
    code = DTYPES.index(dtype) + 1
    if dtype == "float16" and regions.features.dtype != np.float16:
        largest = max(float(regions.features.max()), -float(regions.features.min()))
        if _FLOAT16_END <= largest < np.inf:
            raise DataError(
                f"features up to {largest:g} do not fit float16 (65504 at most); build with --dtype float32"
            )
        features = _as_float16(regions.features)
    else:
        features = np.ascontiguousarray(regions.features, _DTYPES[code])
    parts: list[Any] = [np.ascontiguousarray(regions.boxes, "<f4"), features]
    optional = 0
    for bit, (name, kind) in enumerate(CLASS_FIELDS.items()):
        if (array := getattr(regions, name)) is not None:
            optional |= 1 << bit
            parts.append(np.ascontiguousarray(array, kind))
    header = _HEADER.pack(
        _MAGIC, FORMAT_VERSION, code, optional, *features.shape, int(regions.height), int(regions.width), 0
    )[:_CHECKED_BYTES]
    checksum = _checksum(encode_key(regions.image_id), header, b"")
    for part in parts:
        checksum = crc32(part, checksum)
    return b"".join((header, checksum.to_bytes(4, "little"), *parts))  # one copy of everything


_ALONE = 2**15  # numbers that torch casts on one thread; to wake others for one image costs more than it saves


def _as_float16(features: NDArray[Any]) -> NDArray[np.float16]:
    """Rounded as numpy rounds: torch does it twenty times faster, and without Python's lock."""
    import torch

    if features.dtype != np.float32 or not features.dtype.isnative:
        return np.ascontiguousarray(features, "<f2")
    with warnings.catch_warnings():
        if not features.flags.writeable:
            warnings.simplefilter("ignore", UserWarning)  # of arrays that must not be written to; it only reads
        values = torch.from_numpy(np.ascontiguousarray(features).reshape(-1))
    rounded = torch.empty(len(values), dtype=torch.float16)
    for start in range(0, len(values), _ALONE):
        rounded[start : start + _ALONE] = values[start : start + _ALONE]
    return rounded.numpy().reshape(features.shape)


def read_header(value: memoryview | bytes) -> Header:
    """The header of ``value``; raises ValueError, with a reason, where it cannot belong to a value of this size."""
    if len(value) < _HEADER.size:
        raise ValueError(f"{len(value)} bytes are too short for a record")
    magic, version, code, optional, num_regions, feature_width, height, width, checksum = _HEADER.unpack_from(value)
    if magic != _MAGIC or code not in _DTYPES:
        raise ValueError("not a region-feature record")
    if version != FORMAT_VERSION:
        raise ValueError(f"record layout {version}, this vlrun reads layout {FORMAT_VERSION}")
    header = Header(num_regions, feature_width, _DTYPES[code], height, width, optional, checksum)
    if header.value_size != len(value):
        raise ValueError(f"{len(value)} bytes where its header promises {header.value_size}")
    return header


def boxes_view(value: memoryview | bytes, header: Header) -> NDArray[np.float32]:
    """(R, 4) view on ``value``; valid only as long as the transaction that gave it."""
    return np.frombuffer(value, "<f4", header.num_regions * 4, _HEADER.size).reshape(-1, 4)


def features_as_bytes(value: memoryview | bytes, header: Header) -> NDArray[np.uint8]:
    """The bytes of the (R, D) features as a view on ``value``; valid as long as ``boxes_view`` is."""
    return np.frombuffer(value, np.uint8, header.features_size, header.features_at)


def class_views(value: memoryview | bytes, header: Header) -> dict[str, NDArray[Any]]:
    """The arrays of ``CLASS_FIELDS`` that there are, (R,) each, as views on ``value``; valid as ``boxes_view`` is."""
    at = header.features_at + header.features_size
    views: dict[str, NDArray[Any]] = {}
    for bit, (name, kind) in enumerate(CLASS_FIELDS.items()):
        if header.optional >> bit & 1:
            views[name] = np.frombuffer(value, kind, header.num_regions, at)
            at += views[name].nbytes
    return views


def decode(image_id: str, value: memoryview | bytes) -> RegionFeatures:
    """One image with arrays of its own; raises ValueError like ``read_header``."""
    header = read_header(value)
    return RegionFeatures(
        image_id=image_id,
        features=features_as_bytes(value, header).copy().view(header.dtype).reshape(header.num_regions, -1),
        boxes=boxes_view(value, header).copy(),
        height=header.height,
        width=header.width,
        **{name: array.copy() for name, array in class_views(value, header).items()},
    )


def is_intact(key: bytes, value: memoryview | bytes, header: Header) -> bool:
    """Whether key and value still have the checksum that was computed when they were written."""
    view = memoryview(value)
    return _checksum(key, view[:_CHECKED_BYTES], view[_HEADER.size :]) == header.checksum


def compute_fingerprint(checksums: Iterable[tuple[bytes, int]]) -> str:
    """Hash of (key, record checksum) in key order."""
    digest = hashlib.blake2b(digest_size=16)
    for key, checksum in checksums:
        digest.update(struct.pack("<HI", len(key), checksum) + key)
    return digest.hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """The record of a manifest."""
    return pack_json(asdict(manifest))


def decode_manifest(value: bytes) -> Manifest:
    """The manifest in a record; raises ValueError where it is damaged or of another version."""
    content = unpack_json(value)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"store format {content.get('format_version')}, this vlrun reads format {FORMAT_VERSION}: build it again"
        )
    try:
        # fields with a default came later: stores without them are as good
        given = [field.name for field in fields(Manifest) if field.name in content or field.default is MISSING]
        return Manifest(**{name: content[name] for name in given})
    except KeyError as error:
        raise ValueError(f"its manifest has no {error}") from error


def encode_ids(ids: Iterable[str]) -> bytes:
    """The record of all ids: looking for missing images reads it and not a page of every image."""
    return _with_checksum(zlib.compress("\n".join(ids).encode()))


def decode_ids(value: bytes) -> list[str]:
    """The ids in a record; raises ValueError where it is damaged."""
    try:
        return zlib.decompress(_without_checksum(value)).decode().split("\n")
    except zlib.error as error:
        raise ValueError(f"it is no list of ids: {error}") from error


def pack_json(content: dict[str, Any]) -> bytes:
    """``content`` as JSON after its checksum."""
    return _with_checksum(json.dumps(content).encode())


def unpack_json(value: bytes) -> dict[str, Any]:
    """What ``pack_json`` packed; raises ValueError where it is damaged."""
    content = parse_json(_without_checksum(value))
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, expected an object")
    return content


def _checksum(key: bytes, header: bytes | memoryview, body: bytes | memoryview) -> int:
    return crc32(body, crc32(header, crc32(key)))


def _with_checksum(content: bytes) -> bytes:
    return crc32(content).to_bytes(4, "little") + content


def _without_checksum(value: bytes) -> bytes:
    if crc32(value[4:]).to_bytes(4, "little") != value[:4]:
        raise ValueError("its checksum is wrong: the file is damaged")
    return value[4:]
