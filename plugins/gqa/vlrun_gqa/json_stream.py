"""JSON files that hold one huge object or list, item by item: train_all is 14 million questions, some 20 GB as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from vlrun import DataError


def object_items(path: Path, expected: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of the object in ``path``, in the file's order, repeated keys too.

    Args:
        expected: what the file should be, for the message if it is something else.

    Raises:
        DataError: the file is missing, ends early, or is no JSON object.
    """
    import ijson  # here, because a plugin's modules load when experiments are validated

    return _read(path, expected, b"{", lambda file: ijson.kvitems(file, "", use_float=True))


def list_items(path: Path, expected: str) -> Iterator[Any]:
    """Items of the list in ``path``; otherwise like ``object_items``."""
    import ijson

    return _read(path, expected, b"[", lambda file: ijson.items(file, "item", use_float=True))


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
