"""Opening LMDB files: finding them, refusing damaged and changed ones, and sharing one handle per file and process."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import lmdb

from vlrun.errors import DataError, first_few
from vlrun.features.cut_files import name_cut_files
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


class Checked:
    """Which records of a store were found to have their checksum; forked processes share what they find."""

    def __init__(self, ids: list[str]) -> None:
        self.positions: Mapping[str, int] = {image_id: position for position, image_id in enumerate(ids)}
        self.marks = mmap.mmap(-1, max(1, len(ids)))  # one byte each, in memory that survives a fork as one

    def __contains__(self, image_id: str) -> bool:
        position = self.positions.get(image_id)  # None where the list of ids differs from the records
        return position is not None and bool(self.marks[position])

    def add(self, image_id: str) -> None:
        """Marks a record."""
        if (position := self.positions.get(image_id)) is not None:
            self.marks[position] = 1


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
        name_cut_files()
        self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self.state = _state_of(os.fstat(self._descriptor))

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
    def checked(self) -> Checked:
        """Which records were found to have their checksum; its ``positions`` are the ids, for lookups."""
        return _inherited.get(self.state) or Checked(self.ids)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A transaction whose values are memory views; LMDB's errors come out as DataError.

        Raises:
            DataError: the file is damaged, or changed since it was opened.
        """
        self._refuse_changed()
        try:
            with self.env.begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DataError(f"{self.file} is damaged: {error}; copy or build it again") from error
        self._refuse_changed()  # what was read while another program wrote may be of both

    def _refuse_changed(self) -> None:
        """Raises DataError if another program has written to the file: what is mapped may be cut off, or another store.

        A date alone may change: then every record is checked again.
        """
        now = _state_of(os.fstat(self._descriptor))
        if now == self.state:
            return
        before, size = self.state[2], now[2]
        if size != before:
            what = f"it had {before:,} bytes and has {size:,}"
        else:
            known = self.__dict__.pop("manifest", None)
            self.state = now
            for stale in ("ids", "checked"):
                self.__dict__.pop(stale, None)
            if known is None or self.manifest.fingerprint == known.fingerprint:
                return
            what = f"its fingerprint was {known.fingerprint} and is {self.manifest.fingerprint}"
        raise DataError(
            f"{self.file} was overwritten while it was read: {what}. Put the store back as it was, then continue "
            "the run with --resume; write new stores under other names"
        )

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
        try:
            status = file.stat()
        except OSError as error:
            raise DataError(f"{file} cannot be read any more: {error.strerror}; was it removed or renamed?") from error
        identity = (status.st_dev, status.st_ino)  # a store that was built anew under the same name is another file
        if (handle := _handles.get(identity)) is None:
            handle = _handles[identity] = Handle(file, readahead=readahead)
        return handle


def _state_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Device, number, size and date of a file: what tells whether it is still the same."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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
_inherited: dict[tuple[int, int, int, int], Checked] = {}
"""What the process that forked this one had found."""
_lock = threading.Lock()


def _forget_inherited() -> None:
    """Closes inherited handles in a forked child, where py-lmdb would refuse to open their files again.

    The parent's are untouched: each process has its own file descriptor and mapping, and there is no lock file.
    """
    global _lock  # noqa: PLW0603  another thread of the parent may have held it
    _lock = threading.Lock()
    for handle in list(_handles.values()):
        if "checked" in handle.__dict__:
            _inherited[handle.state] = handle.checked
        handle.env.close()
    _handles.clear()


os.register_at_fork(after_in_child=_forget_inherited)
