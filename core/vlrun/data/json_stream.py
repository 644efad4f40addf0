"""Huge JSON files, item by item: 20 GB of questions, half a gigabyte of outlines behind the list that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from vlrun.errors import DataError


def object_items(path: Path, expected: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of the object in ``path``, in the file's order, repeated keys too.

    Args:
        expected: what the file should be, for the message if it is something else.

    Raises:
        DataError: the file is missing, ends early, or is no JSON object.
    """
    import ijson  # here, because few commands need it

    return _read(path, expected, b"{", lambda file: ijson.kvitems(file, "", use_float=True))


def list_items(path: Path, expected: str) -> Iterator[Any]:
    """Items of the list in ``path``; otherwise like ``object_items``."""
    import ijson

    return _read(path, expected, b"[", lambda file: ijson.items(file, "item", use_float=True))


def items_under(path: Path, key: str, expected: str) -> Iterator[Any]:
    """Items of the list that the object in ``path`` has under ``key``; what follows the list is not read.

    Raises:
        DataError: as ``object_items``; or there is no such list.
    """
    return _read(path, expected, b"{", lambda file: _items_of_list(path, key, file))


def _items_of_list(path: Path, key: str, file: IO[bytes]) -> Iterator[Any]:
    import ijson

    ended = False

    def until_its_end() -> Iterator[tuple[str, str, Any]]:
        nonlocal ended
        for prefix, event, value in ijson.parse(file, use_float=True):
            yield prefix, event, value
            if ended := (prefix, event) == (key, "end_array"):
                return

    yield from ijson.items(until_its_end(), f"{key}.item")
    if not ended:
        raise DataError(f"{path}: there is no list '{key}' in it")


def _read(path: Path, expected: str, bracket: bytes, items_of: Callable[[IO[bytes]], Iterator[Any]]) -> Iterator[Any]:
    import ijson

    try:
        with path.open("rb") as file:
            start = _start(file)
            if not start.startswith(bracket):
                raise DataError(f"{path}: expected {expected}; the file starts with {start.decode(errors='replace')!r}")
            yield from items_of(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ijson.IncompleteJSONError as error:
        # the parser raises the same for a file that is cut off and for one that is damaged in its middle
        ends_early = "premature EOF" in str(error) or "Incomplete" in str(error)
        what = "cut off before its end" if ends_early else f"not readable JSON: {_first_line(error)}"
        raise DataError(f"{path}: {what}; get or write it again") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable JSON: {_first_line(error)}") from error


def _start(file: IO[bytes]) -> bytes:
    """The first signs that are no white space; leaves the file at its start, after a byte order mark."""
    mark = file.read(3)
    begin = 3 if mark == b"\xef\xbb\xbf" else 0
    file.seek(begin)
    start = file.read(4096).lstrip()[:20]
    file.seek(begin)
    return start


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
