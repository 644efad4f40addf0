"""How far a build is: readers and writers of annotation files tell whoever listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TypeVar

from vlrun.interfaces.reporter import ProgressCallback

Item = TypeVar("Item")

_EVERY = 1000
_MEGABYTE = 1_000_000

_listener: ContextVar[ProgressCallback | None] = ContextVar("_listener", default=None)


@contextmanager
def progress_told_to(listener: ProgressCallback) -> Iterator[None]:
    """Within it, what is read and written with this module goes to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def counted(items: Iterable[Item], path: Path, total: int | None) -> Iterator[Item]:
    """The same items, told as lines of ``path`` that are written; nothing is told without a ``total``."""
    tell = _listener.get()
    for number, item in enumerate(items):
        if tell is not None and total and number % _EVERY == 0:
            tell(f"writing {path.name}", number, total)
        yield item


class ReadingTold:
    """A file being read, with what is done of it told in megabytes."""

    def __init__(self, file: IO[bytes], path: Path, inner: IO[bytes]) -> None:
        """Reads from ``file``; how far it is, ``inner`` knows, which is the compressed one where there are two."""
        self._file, self._inner, self._what = file, inner, f"reading {path.name}, MB"
        self._size = path.stat().st_size

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if (tell := _listener.get()) is not None:
            tell(self._what, self._inner.tell() // _MEGABYTE, max(1, self._size // _MEGABYTE))
        return self._file.read(size)
