"""Opening LMDB files: finding them, refusing damaged ones, and sharing one handle per file and process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import lmdb

from vlrun.errors import DataError, first_few
from vlrun.features.layout import IDS_KEY, MANIFEST_KEY, PROGRESS_KEY, Manifest, decode_ids, decode_manifest

_LMDB_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_LMDB_MAGIC_AT = 16
DATA_FILE = "data.mdb"


def find_store_file(path: Path) -> Path:
    """The LMDB file behind ``path``: a store's folder, the ``data.mdb`` in it, or a file of any other name.

    Raises:
        DataError: there is none; the message lists what is there instead.
    """
    if path.is_dir():
        file = path / DATA_FILE
        if not file.is_file():
            raise DataError(f"{path} is not a region-feature store: {_contents(path)}; a store holds {DATA_FILE}")
    elif path.is_file():
        file = path
    else:
        raise DataError(f"there is no region-feature store at {path}: {_neighbours(path)}")
    if not is_lmdb(file):
        with file.open("rb") as opened:
            start = opened.read(12)
        kind = f"a file that begins with {start!r}" if start else "an empty file"
        raise DataError(f"{path} is not a region-feature store: {file.name} is {kind}, not an LMDB file")
    return file


def is_lmdb(file: Path) -> bool:
    """Whether a file begins as those of LMDB do."""
    with file.open("rb") as opened:
        return opened.read(_LMDB_MAGIC_AT + 4)[_LMDB_MAGIC_AT:] == _LMDB_MAGIC


def unfinished_build(path: Path) -> Path:
    """The folder in which a build of the store ``path`` collects records."""
    return path.with_name(f"{path.name}.partial")


class Handle:
    """An open store file. Values are views that end with their transaction: readers copy."""

    def __init__(self, file: Path, *, readahead: bool | None = None) -> None:
        """Opens ``file``; ``readahead`` defaults to whether the store fits in half of the memory.

        With readahead the kernel fetches a record in a few large reads, without it page by page: 2.4 GB in random order
        from a cold disk came at 3,500 and 350 images/s. Of a larger store it would fetch much that is evicted unused.
        """
        if readahead is None:
            readahead = file.stat().st_size < _memory_bytes() // 2
        try:
            self.env = lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=readahead)
        except lmdb.Error as error:
            raise DataError(f"{file} cannot be opened: {error}. The file is damaged or not complete") from error
        self.file = file
        _refuse_truncated(file, self.env)

    @cached_property
    def manifest(self) -> Manifest:
        """What the store says about itself; raises DataError where the file is no finished store."""
        value = self._value(MANIFEST_KEY)
        if value is None:
            if self._value(PROGRESS_KEY) is not None:
                raise DataError(f"{self.file} is an unfinished build: repeat the `runner features build` command")
            raise DataError(
                f"{self.file} is an LMDB file that `runner features build` did not make (first keys: "
                f"{self._first_keys()}); build a store from the source files"
            )
        try:
            return decode_manifest(value)
        except ValueError as error:
            raise DataError(f"{self.file} cannot be read: {error}") from error

    @cached_property
    def ids(self) -> list[str]:
        """All canonical ids, in key order."""
        _ = self.manifest
        try:
            return decode_ids(self._value(IDS_KEY) or b"")
        except ValueError as error:
            raise DataError(f"the list of ids in {self.file} cannot be read: {error}") from error

    @cached_property
    def id_set(self) -> frozenset[str]:
        """All canonical ids, for lookups."""
        return frozenset(self.ids)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A transaction whose values are memory views; LMDB's errors come out as DataError."""
        try:
            with self.env.begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DataError(f"{self.file} is damaged: {error}; copy or build it again") from error

    def _value(self, key: bytes) -> bytes | None:
        with self.reading() as transaction:
            value = transaction.get(key)
            return None if value is None else bytes(value)

    def _first_keys(self) -> str:
        with self.reading() as transaction:
            keys = [bytes(key) for key, _ in zip(transaction.cursor().iternext(values=False), range(3), strict=False)]
        return ", ".join(repr(key) for key in keys) or "none"


def shared_handle(file: Path, *, readahead: bool | None = None) -> Handle:
    """The handle of ``file`` in this process: opened by the first that asks, closed with the last that holds it."""
    with _lock:
        status = file.stat()
        identity = (status.st_dev, status.st_ino)  # a store that was built anew under the same name is another file
        if (handle := _handles.get(identity)) is None:
            handle = _handles[identity] = Handle(file, readahead=readahead)
        return handle


def _refuse_truncated(file: Path, env: Any) -> None:
    """Raises DataError for a truncated file: reading past its end would kill the process with SIGBUS."""
    size = file.stat().st_size
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed:
        env.close()
        raise DataError(f"{file} is truncated: it has {size:,} bytes and needs {needed:,}; copy or build it again")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):  # not every system tells
        return 0


def _contents(folder: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if not names:
        return "the folder is empty"
    has_sources = any(name.endswith((".npz", ".tsv", "npz_files/")) for name in names)
    hint = " (source files: make a store of them with `runner features build`)" if has_sources else ""
    return f"it holds {', '.join(first_few(names, 5))}{hint}"


def _neighbours(path: Path) -> str:
    if unfinished_build(path).is_dir():
        return f"{unfinished_build(path)} is an unfinished build; repeat the `runner features build` command"
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    return f"{parent}: {_contents(parent)}"


_handles: weakref.WeakValueDictionary[tuple[int, int], Handle] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _forget_inherited() -> None:
    """Closes inherited handles in a forked child, where py-lmdb would refuse to open their files again.

    The parent's are untouched: each process has its own file descriptor and mapping, and there is no lock file.
    """
    global _lock  # noqa: PLW0603  another thread of the parent may have held it
    _lock = threading.Lock()
    for handle in list(_handles.values()):
        handle.env.close()
    _handles.clear()


os.register_at_fork(after_in_child=_forget_inherited)
