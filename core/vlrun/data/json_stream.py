"""Huge JSON files, item by item: 20 GB of questions, half a gigabyte of outlines behind the list that is wanted."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from vlrun.data.build_progress import ReadingTold
from vlrun.errors import DataError
from vlrun.foreign.json import Nesting

_IN_A_LIST = 2  # the depth at which items of the lists of an object begin


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


def items_of(path: Path, key: str, expected: str) -> Iterator[Any]:
    """Like ``items_under``, but reads the whole file: in a third of the time, if little follows the list."""
    import ijson

    found = 0
    for found, item in enumerate(  # noqa: B007 - counts
        _read(path, expected, b"{", lambda file: ijson.items(file, f"{key}.item", use_float=True)), 1
    ):
        yield item
    if not found:
        yield from items_under(path, key, expected)  # raises unless the list is there, and empty


def value_under(path: Path, key: str, expected: str) -> Any:
    """What the object in ``path`` has under ``key``; None if there is nothing. Errors as of ``object_items``."""
    import ijson

    return next(_read(path, expected, b"{", lambda file: ijson.items(file, key, use_float=True)), None)


def items_by_key(path: Path, expected: str) -> Iterator[tuple[str, Any]]:
    """(key, item) for all items of the lists that the object in ``path`` has; keys of empty lists do not occur.

    Raises:
        DataError: as ``object_items``; or something in the object is no list.
    """
    return _read(path, expected, b"{", lambda file: _items_of_lists(path, expected, file))


def _items_of_lists(path: Path, expected: str, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    import ijson

    key, depth = "", 0
    builder = ijson.ObjectBuilder()
    for event, value in ijson.basic_parse(file, use_float=True):
        starts, ends = event in ("start_map", "start_array"), event in ("end_map", "end_array")
        if depth == 1 and event == "map_key":
            key = value
        elif depth == 1 and event != "start_array" and not ends:
            raise DataError(f"{path}: expected {expected}; '{key}' is no list")
        depth -= ends
        if depth >= _IN_A_LIST:
            builder.event(event, value)
            if depth == _IN_A_LIST and not starts:
                yield key, builder.value
                builder = ijson.ObjectBuilder()
        depth += starts


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


def _read(path: Path, expected: str, bracket: bytes, items_of: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    import ijson

    try:
        with ExitStack() as opened:
            inner = opened.enter_context(path.open("rb"))
            file: Any = opened.enter_context(gzip.open(inner)) if path.suffix == ".gz" else inner
            start = _start(file)
            if not start.startswith(bracket):
                raise DataError(f"{path}: expected {expected}; the file starts with {start.decode(errors='replace')!r}")
            yield from items_of(_Limited(ReadingTold(file, path, inner), path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not readable gzip ({error}); get the file again") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ijson.IncompleteJSONError as error:
        # the parser raises the same for a file that is cut off and for one that is damaged in its middle
        ends_early = "premature EOF" in str(error) or "Incomplete" in str(error)
        what = "cut off before its end" if ends_early else f"not readable JSON: {_first_line(error)}"
        raise DataError(f"{path}: {what}; get or write it again") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable JSON: {_first_line(error)}") from error


class _Limited:
    """A file being read that refuses brackets within brackets without end: the parser takes memory for each.

    ``read`` raises DataError.
    """

    def __init__(self, file: ReadingTold, path: Path) -> None:
        self._file, self._path, self._nesting = file, path, Nesting()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        block = self._file.read(size)
        try:
            self._nesting.feed(block)
        except ValueError as error:
            raise DataError(f"{self._path}: not readable JSON: {error}") from error
        return block


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
