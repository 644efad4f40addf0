"""``hashes.json``: what the files of a run folder hash to, so that damage is found when one is read back.

Before a file is replaced, the hash of the new one is added to that of the old one: a kill in between leaves either.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vlrun.errors import DataError
from vlrun.files import read_object_or_empty, sha256_of, write_json, write_text

FILE_NAME = "hashes.json"


def write_hashed(folder: Path, name: str, text: str) -> None:
    """Writes a text file of a run folder, atomically, and keeps its hash."""
    known = read_object_or_empty(folder / FILE_NAME)
    before = known.get(name)
    kept = before[-1:] if isinstance(before, list) else []
    write_json(folder / FILE_NAME, {**known, name: list(dict.fromkeys([*kept, text_hash(text)]))})
    write_text(folder / name, text)


def write_hashed_json(folder: Path, name: str, content: Any) -> None:
    """As ``write_hashed``, for JSON."""
    write_hashed(folder, name, json_text(content))


def json_text(content: Any) -> str:
    """How files of a run folder have JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def text_hash(text: str) -> str:
    """The hash of a file of this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_known(folder: Path, name: str, digest: str) -> bool:
    """Whether a file was written with this hash; False for one whose hash nobody has kept."""
    kept = read_object_or_empty(folder / FILE_NAME).get(name)
    return isinstance(kept, list) and digest in kept


def is_damaged(folder: Path, name: str) -> bool:
    """Whether a file is not what was written; False where an earlier version has kept no hash, or there is no file."""
    kept = read_object_or_empty(folder / FILE_NAME).get(name)
    try:
        return isinstance(kept, list) and sha256_of(folder / name) not in kept
    except OSError:
        return False


def refuse_damaged(folder: Path, name: str, remedy: str) -> None:
    """Raises DataError, with what to do, if a file is damaged."""
    if is_damaged(folder, name):
        raise DataError(f"{folder / name} is not what the run has written: it is damaged, or was changed. {remedy}")
