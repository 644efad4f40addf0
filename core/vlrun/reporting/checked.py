"""JSON objects of a run folder that carry their own checksum, for files that are written again and again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun.files import read_object_or_empty, write_json

CHECKSUM = "crc32"
"""The last entry: CRC-32 of the object without it."""


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an indented JSON object with its checksum, atomically."""
    write_json(path, {**content, CHECKSUM: _crc(content)})


def read_checked(path: Path) -> dict[str, Any]:
    """The object without its checksum; an empty one if there is no such file, or if it is damaged.

    Earlier versions have written none; such a file is taken as it is.
    """
    return _read(path) or {}


def is_damaged_object(path: Path) -> bool:
    """Whether a file is there and is not what was written."""
    return path.is_file() and _read(path) is None


def _read(path: Path) -> dict[str, Any] | None:
    content = read_object_or_empty(path)
    checksum = content.pop(CHECKSUM, None)
    return None if not content or checksum not in (None, _crc(content)) else content


def _crc(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, ensure_ascii=False, default=str).encode('utf-8', 'surrogatepass')):08x}"
