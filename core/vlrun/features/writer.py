"""Writing a store: in bounded memory, resumable after a kill, and visible under its name only when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import lmdb

from vlrun.errors import DataError
from vlrun.features.checks import find_problems
from vlrun.features.handles import DATA_FILE, Handle, find_store_file, unfinished_build
from vlrun.features.layout import (
    DTYPES,
    IDS_KEY,
    MANIFEST_KEY,
    PROGRESS_KEY,
    Manifest,
    compute_fingerprint,
    encode,
    encode_ids,
    encode_key,
    encode_manifest,
    pack_json,
    read_header,
    unpack_json,
)
from vlrun.files import sync_folder
from vlrun.interfaces.examples import RegionFeatures

_COMMIT_BYTES = 16 << 20
_SPARE_BYTES = 4 << 20  # for the tree's inner pages and the freed pages of earlier commits
_LOCK_FILE = "lock"

Position = Sequence[Any]
"""Where a source continues after a record; plain JSON, meaningful to the source alone."""


class DuplicateImageError(DataError):
    """An image comes twice. ``image_id`` says which."""

    def __init__(self, image_id: str) -> None:
        super().__init__(f"image '{image_id}' comes twice")
        self.image_id = image_id


class StoreWriter:
    """Collects records in ``<out>.partial`` and gives them their name when they are complete.

    Use as a context manager. A writer with the same ``signature`` continues where a killed one stopped: ``position``
    tells where; with another signature it starts anew. Leaving the block without ``finish`` keeps what was added.
    """

    def __init__(self, out: Path, *, dtype: str, signature: str) -> None:
        if dtype not in DTYPES:
            raise DataError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
        self.out = out
        self.dtype = dtype
        self.signature = signature
        self.discarded = ""
        self._folder = unfinished_build(out)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_file(self._folder)
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._only_checks = False
        self._begin()

    def _begin(self) -> None:
        progress = self._saved_progress()
        if progress.get("signature") != self.signature:
            if progress:
                self.discarded = f"{self._folder} was begun from other files or options: starting anew"
            (self._folder / DATA_FILE).unlink(missing_ok=True)
            progress = {}
        self._env = self._open()
        self.position: Position = progress.get("position", ())
        self.count: int = progress.get("count", 0)
        self._fewest: int = progress.get("fewest", 0)
        self._most: int = progress.get("most", 0)
        self._feature_width: int = progress.get("feature_width", 0)

    def _saved_progress(self) -> dict[str, Any]:
        """What an earlier build of the same name left; empty where there is none that can be read."""
        if not (self._folder / DATA_FILE).exists():
            return {}
        try:
            handle = Handle(self._folder / DATA_FILE)
            with handle.reading() as transaction:
                saved = transaction.get(PROGRESS_KEY)
                progress = {} if saved is None else unpack_json(bytes(saved))
            handle.env.close()
        except (DataError, ValueError):
            return {}
        return progress

    def _open(self) -> Any:
        try:
            # No writemap: with it the file would have the size of the map.
            return lmdb.open(str(self._folder / DATA_FILE), subdir=False, lock=False, map_size=_SPARE_BYTES)
        except lmdb.Error as error:
            raise DataError(f"{self._folder} cannot be opened: {error}; remove it and build again") from error

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock.closed:
            return
        try:
            self._commit()
        finally:
            self._env.close()
            self._lock.close()

    def __contains__(self, image_id: str) -> bool:
        key = image_id.encode()
        if key in self._pending:
            return True
        with self._env.begin(buffers=True) as transaction:
            return transaction.get(key) is not None

    def add(self, regions: RegionFeatures, position: Position) -> None:
        """Adds one image; ``position`` is where the source continues after it.

        Raises:
            DataError: it comes twice, or does not look like the region features of an image.
        """
        if problems := find_problems(regions):
            raise DataError(problems)
        key = encode_key(regions.image_id)
        if regions.image_id in self:
            raise DuplicateImageError(regions.image_id)
        num_regions, feature_width = regions.features.shape
        if self._feature_width not in (0, feature_width):
            raise DataError(f"features of width {feature_width}; the images before have width {self._feature_width}")
        value = encode(regions, self.dtype)
        self._pending[key] = b"" if self._only_checks else value
        self._pending_bytes += len(value)
        self._feature_width = feature_width
        self._fewest = min(self._fewest or num_regions, num_regions)
        self._most = max(self._most, num_regions)
        self.count += 1
        self.position = position
        if self._pending_bytes >= _COMMIT_BYTES:
            self._commit()

    def only_check(self) -> None:
        """From now on records are checked but not kept: after a problem, the store must not be continued past it."""
        self._commit()
        self._only_checks = True

    def discard(self) -> None:
        """Removes everything that was written."""
        self._env.close()
        self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self, *, source_format: str, source: str, extractor: str, overwrite: bool = False) -> Manifest:
        """Describes the store and gives it its name.

        Raises:
            DataError: the file does not hold what was added, or ``out`` exists and ``overwrite`` is not set.
        """
        self._commit()
        checksums = list(self._checksums())
        if len(checksums) != self.count or not self.count:
            raise DataError(f"{self._folder} holds {len(checksums):,} images after {self.count:,} were added")
        manifest = Manifest(
            count=self.count,
            min_regions=self._fewest,
            max_regions=self._most,
            feature_width=self._feature_width,
            dtype=self.dtype,
            extractor=extractor,
            source_format=source_format,
            source=source,
            source_signature=self.signature,
            fingerprint=compute_fingerprint(checksums),
            created=_now(),
        )
        ids = encode_ids(key.decode() for key, _ in checksums)
        self._write({MANIFEST_KEY: encode_manifest(manifest), IDS_KEY: ids}, remove=PROGRESS_KEY)
        self._env.close()
        _publish(self._folder, self.out, overwrite=overwrite)
        self._lock.close()
        return manifest

    def _checksums(self) -> Iterator[tuple[bytes, int]]:
        """(key, checksum) of every record as it lies in the file, in key order."""
        with self._env.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                if key[0] != 0:
                    yield bytes(key), read_header(value).checksum

    def _commit(self) -> None:
        """Records and the position after them become durable together."""
        if self._pending and not self._only_checks:
            progress = {
                "signature": self.signature,
                "position": list(self.position),
                "count": self.count,
                "fewest": self._fewest,
                "most": self._most,
                "feature_width": self._feature_width,
            }
            self._write({**self._pending, PROGRESS_KEY: pack_json(progress)})
            self._pending.clear()
        self._pending_bytes = 0

    def _write(self, records: dict[bytes, bytes], remove: bytes | None = None) -> None:
        page_size = self._env.stat()["psize"]
        # A value of its own pages wastes less than one of them; smaller values share pages that may be half empty.
        needed = sum(len(key) + len(value) + 2 * page_size for key, value in records.items())
        info = self._env.info()
        used = (info["last_pgno"] + 1) * page_size
        if used + needed + _SPARE_BYTES > info["map_size"]:
            self._env.set_mapsize((used + needed + _SPARE_BYTES) * 5 // 4)
        try:
            with self._env.begin(write=True) as transaction:
                for key, value in records.items():
                    transaction.put(key, value)
                if remove is not None:
                    transaction.delete(remove)
        except lmdb.Error as error:
            raise DataError(f"{self._folder} cannot be written: {error}") from error


def write_store(
    out: Path,
    records: Iterable[RegionFeatures],
    *,
    dtype: str = "float16",
    extractor: str = "",
    overwrite: bool = False,
) -> Manifest:
    """Writes ``records``, from a detector or a test, as a store; files of others go through ``build_store``."""
    refuse_to_replace(out, overwrite=overwrite)
    with StoreWriter(out, dtype=dtype, signature=f"records begun {_now()}") as writer:
        try:
            for regions in records:
                _add_named(writer, regions)
            return writer.finish(source_format="records", source="", extractor=extractor, overwrite=overwrite)
        except BaseException:
            writer.discard()
            raise


def _add_named(writer: StoreWriter, regions: RegionFeatures) -> None:
    try:
        writer.add(regions, ())
    except DataError as error:
        raise DataError([f"image '{regions.image_id}': {problem}" for problem in error.problems]) from error


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def refuse_to_replace(out: Path, *, overwrite: bool) -> None:
    """Raises DataError where ``out`` exists and must stay."""
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise DataError(f"{out} exists and holds something else; choose another name or add --overwrite")
    find_store_file(out)  # something that is no store is not ours to remove


def _publish(folder: Path, out: Path, *, overwrite: bool) -> None:
    refuse_to_replace(out, overwrite=overwrite)
    (folder / _LOCK_FILE).unlink()
    sync_folder(folder)
    old = out.with_name(f"{out.name}.replaced-{os.getpid()}")
    if out.exists() or out.is_symlink():
        out.rename(old)
    folder.rename(out)
    sync_folder(out.absolute().parent)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _lock_file(folder: Path) -> IO[str]:
    """Held for as long as this process builds; a kill releases it."""
    file = (folder / _LOCK_FILE).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise DataError(f"another process is building in {folder}") from error
    return file
