"""A copy of a store on a disk that is nearer: once per machine, however many processes want it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from vlrun.errors import DataError
from vlrun.features.handles import Handle
from vlrun.features.store import RegionFeatureStore
from vlrun.files import sync_folder

_BLOCK = 1 << 24

Progress = Callable[[int, int], None]
"""Told the bytes that are done, and all."""


def staged_copy(store: RegionFeatureStore, folder: Path, progress: Progress) -> Path:
    """The copy of ``store`` in ``folder``, made if it is not there; its name has the fingerprint.

    Other processes that want it wait until it is whole. A copy that was broken off is continued.

    Raises:
        DataError: the folder cannot be written, has too little space, or the copy is not what the store is.
    """
    target = folder / f"{store.path.stem}-{store.fingerprint[:16]}.lmdb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f".{target.name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataError(f"features.stage: {folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with its process, however that ends
        if not _is_copy(target, store):
            _copy(store, target, progress)
    except OSError as error:
        raise DataError(f"features.stage: copying {store.path} to {folder} failed: {error.strerror}") from error
    finally:
        os.close(lock)
    return target


def _copy(store: RegionFeatureStore, target: Path, progress: Progress) -> None:
    draft = target.with_name(f".{target.name}.partial")
    total = store.file.stat().st_size
    have = draft.stat().st_size if draft.is_file() and not draft.is_symlink() else 0
    done = max(0, min(have, total) - _BLOCK)  # what was written last may not have reached the disk
    free = shutil.disk_usage(target.parent).free + have
    if free < total:
        raise DataError(
            f"features.stage: {store.path} takes {total / 1e9:.1f} GB, and {target.parent} has {free / 1e9:.1f} GB "
            "free; remove old copies there, name another folder, or leave it out (features.stage=null)"
        )
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with store.file.open("rb") as source, os.fdopen(os.open(draft, flags, 0o644), "r+b") as copy:
        source.seek(done)
        copy.seek(done)
        copy.truncate()
        while block := source.read(_BLOCK):
            copy.write(block)
            done += len(block)
            progress(done, total)
        copy.flush()
        os.fsync(copy.fileno())
    if not _is_copy(draft, store):
        draft.unlink()
        raise DataError(f"features.stage: {store.path} changed while it was copied; run again")
    os.replace(draft, target)
    sync_folder(target.parent)


def _is_copy(file: Path, store: RegionFeatureStore) -> bool:
    """Whether a file has the size and, by its own words, the content of the store."""
    try:
        if file.is_symlink() or file.stat().st_size != store.file.stat().st_size:
            return False
        return Handle(file).manifest == store.manifest
    except (FileNotFoundError, DataError):
        return False
