"""JSON objects of a run folder that carry their own checksum, for what is written again and again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun.files import read_object_or_empty, write_json
from vlrun.foreign.json import finite

CHECKSUM = "crc32"
"""The last entry: CRC-32 of the object without it."""


def text_of(content: Mapping[str, Any]) -> str:
    """An object as one line of JSON: nan and infinity become null, what JSON does not know becomes text."""
    return json.dumps(finite(content), ensure_ascii=False, allow_nan=False, default=str)


def checksum(text: str) -> str:
    """That of an object; of one that was read it is the same, for a float comes back as it was written."""
    return f"{zlib.crc32(text.encode('utf-8', 'replace')):08x}"


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an indented JSON object with its checksum, atomically."""
    write_json(path, {**content, CHECKSUM: checksum(text_of(content))})


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
    found = content.pop(CHECKSUM, None)
    return None if not content or found not in (None, checksum(text_of(content))) else content
