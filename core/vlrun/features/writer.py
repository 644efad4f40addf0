"""Writing a store: in bounded memory, resumable after a kill, and under its name only when it is complete."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import lmdb

from vlrun.errors import DataError, no_room
from vlrun.features.checks import find_problems
from vlrun.features.handles import DATA_FILE, Handle, find_store_file, unfinished_build
from vlrun.features.layout import (
    DTYPES,
    IDS_KEY,
    MANIFEST_KEY,
    MAX_KEY_BYTES,
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
from vlrun.features.origin import UNKNOWN, FeatureOrigin
from vlrun.files import lock_file, sync_folder
from vlrun.interfaces.examples import RegionFeatures

_COMMIT_BYTES = 8 << 20
_SPARE_BYTES = 4 << 20  # for the tree's inner pages and the freed pages of earlier commits
_LOCK_FILE = "lock"
_KEPT_BYTES = 2 * _COMMIT_BYTES

Position = Sequence[Any]
"""Where a source continues after a record; plain JSON, meaningful to the source alone."""


@dataclass
class BuildState:
    """What has been added, and where the source continues; kept with the records.

    Attributes:
        signature: which source and options the records come from.
        fewest, most: number of regions of one image.
        skipped: damaged records that were left out.
    """

    signature: str
    position: Position = ()
    count: int = 0
    fewest: int = 0
    most: int = 0
    feature_width: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class EncodedRecord:
    """An image as the store holds it; ``shape`` is (regions, feature width)."""

    image_id: str
    value: bytes
    shape: tuple[int, int]


def encode_record(regions: RegionFeatures, dtype: str) -> EncodedRecord:
    """What a store of ``dtype`` holds of an image; nearly all of it without Python's lock.

    Raises:
        DataError: this does not look like region features.
    """
    if problems := find_problems(regions):
        raise DataError(problems)
    num_regions, feature_width = regions.features.shape
    return EncodedRecord(regions.image_id, encode(regions, dtype), (num_regions, feature_width))


class StoreWriter:
    """Collects records in ``<out>.partial`` and gives them their name when they are complete.

    Use as a context manager. A writer with the same ``signature`` continues where a killed one stopped, as ``state``
    tells; with another it starts anew. Leaving the block without ``finish`` keeps what was added.
    """

    def __init__(self, out: Path, *, dtype: str, signature: str) -> None:
        """Starts a build, or continues one.

        Raises:
            DataError: ``dtype`` is unknown, another process is building ``out``, or its folder cannot be written.
        """
        if dtype not in DTYPES:
            raise DataError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
        self.out = out
        self.dtype = dtype
        self._folder = unfinished_build(out)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_file(self._folder)
        _keep_freed_memory()
        self._pending: dict[bytes, bytes] = {}
        self._in_flight: dict[bytes, bytes] = {}
        self._thread = ThreadPoolExecutor(1, "store-writer")  # writes while the next records are read
        self._writing: Future[None] | None = None
        self._map_lock = threading.Lock()  # LMDB must not enlarge its map while someone reads
        self._pending_bytes = 0
        self._only_checks = False
        file = self._folder / DATA_FILE
        saved = _saved_state(file)
        self.has_discarded = saved is not None and saved.signature != signature
        if saved is None or self.has_discarded or file.is_symlink():
            file.unlink(missing_ok=True)
            saved = None
        self.state = saved or BuildState(signature)
        try:
            # No writemap: with it the file would have the size of the map.
            self._env = lmdb.open(str(file), subdir=False, lock=False, map_size=_SPARE_BYTES)
        except lmdb.Error as error:
            if full := no_room(error, file):
                raise full from error
            raise DataError(f"{self._folder} cannot be opened: {error}; remove it and build again") from error

        self._last_key = self._find_last_key()

    def _find_last_key(self) -> bytes:
        with self._env.begin() as transaction:
            cursor = transaction.cursor()
            return bytes(cursor.key()) if cursor.last() else b""

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock.closed:
            return
        try:
            self._commit()
            self._wait()
        finally:
            self._close()

    def _close(self) -> None:
        self._thread.shutdown()
        self._env.close()
        self._lock.close()

    def __contains__(self, image_id: str) -> bool:
        key = image_id.encode(errors="replace")  # what is not UTF-8 cannot be there
        if key > self._last_key:  # nothing so far: most sources come in order, and looking costs a page of the file
            return False
        if key in self._pending or key in self._in_flight:
            return True
        with self._map_lock, self._env.begin(buffers=True) as transaction:
            return 0 < len(key) <= MAX_KEY_BYTES and transaction.get(key) is not None

    def add(self, regions: RegionFeatures, position: Position) -> None:
        """Adds one image; ``position`` is where the source continues after it.

        Raises:
            DataError: the image was there before, or this does not look like region features.
        """
        self.add_encoded(encode_record(regions, self.dtype), position)

    def add_encoded(self, record: EncodedRecord, position: Position) -> None:
        """Adds what ``encode_record`` made of an image; the rest is as for ``add``."""
        if record.image_id in self:
            raise DataError("it comes twice")
        num_regions, feature_width = record.shape
        state = self.state
        if state.feature_width not in (0, feature_width):
            raise DataError(f"features of width {feature_width}; the images before have width {state.feature_width}")
        key = encode_key(record.image_id)
        self._last_key = max(self._last_key, key)
        self._pending[key] = b"" if self._only_checks else record.value
        self._pending_bytes += len(record.value)
        self.state = BuildState(
            state.signature,
            position,
            state.count + 1,
            min(state.fewest or num_regions, num_regions),
            max(state.most, num_regions),
            feature_width,
            state.skipped,
        )
        if self._pending_bytes >= _COMMIT_BYTES:
            self._commit()

    def flush(self) -> None:
        """Makes durable what was added so far; otherwise that happens by size, which slow sources reach late."""
        self._commit()
        self._wait()

    def skip(self, position: Position) -> None:
        """Leaves out a damaged record; ``position`` is where the source continues after it."""
        self.state = replace(self.state, position=position, skipped=self.state.skipped + 1)

    def only_check(self) -> None:
        """Checks records from now on without keeping them: no build may continue after a problem."""
        self._commit()
        self._wait()
        self._only_checks = True

    def discard(self) -> None:
        """Removes everything that was written."""
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def finish(
        self,
        *,
        source_format: str,
        source: str,
        origin: FeatureOrigin = UNKNOWN,
        ids: str = "",
        overwrite: bool = False,
    ) -> Manifest:
        """Writes the manifest and gives the store its name.

        Args:
            origin: what made the features.
            ids: where other ids than those of the source come from.

        Raises:
            DataError: the file does not hold what was added, or ``out`` exists and ``overwrite`` is not set.
        """
        self._commit()
        self._wait()
        state = self.state
        with self._env.begin(buffers=True) as transaction:  # as they lie in the file, in key order
            checksums = [
                (bytes(key), read_header(value).checksum) for key, value in transaction.cursor() if key[0] != 0
            ]
        if len(checksums) != state.count or not state.count:
            raise DataError(f"{self._folder} holds {len(checksums):,} images after {state.count:,} were added")
        manifest = Manifest(
            count=state.count,
            min_regions=state.fewest,
            max_regions=state.most,
            feature_width=state.feature_width,
            dtype=self.dtype,
            extractor=origin.extractor,
            extractor_weights=origin.weights,
            boxes=origin.boxes,
            skipped=state.skipped,
            ids=ids,
            source_format=source_format,
            source=source,
            source_signature=state.signature,
            fingerprint=compute_fingerprint(checksums),
            created=_now(),
        )
        listed = encode_ids(key.decode() for key, _ in checksums)
        self._write({MANIFEST_KEY: encode_manifest(manifest), IDS_KEY: listed}, remove=PROGRESS_KEY)
        self._env.close()
        _publish(self._folder, self.out, overwrite=overwrite)
        self._close()
        return manifest

    def _commit(self) -> None:
        """Begins to make records and the position after them durable together, when those before are."""
        self._wait()
        if self._pending and not self._only_checks:
            self._in_flight = {**self._pending, PROGRESS_KEY: pack_json(asdict(self.state))}
            self._pending = {}
            self._writing = self._thread.submit(self._write, self._in_flight)
        self._pending_bytes = 0

    def _wait(self) -> None:
        """Until what was begun is durable; raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
        self._in_flight = {}

    def _write(self, records: dict[bytes, bytes], remove: bytes | None = None) -> None:
        page_size = self._env.stat()["psize"]
        # A large value wastes less than one of its pages; small values share pages that may be half empty.
        needed = sum(len(key) + len(value) + 2 * page_size for key, value in records.items())
        info = self._env.info()
        used = (info["last_pgno"] + 1) * page_size
        if used + needed + _SPARE_BYTES > info["map_size"]:
            with self._map_lock:
                self._env.set_mapsize((used + needed + _SPARE_BYTES) * 5 // 4)
        try:
            with self._env.begin(write=True) as transaction:
                for key, value in records.items():
                    transaction.put(key, value)
                if remove is not None:
                    transaction.delete(remove)
        except lmdb.Error as error:
            free = shutil.disk_usage(self._folder).free
            room = f"{needed / 1e6:,.2f} MB are needed next, {free / 1e6:,.2f} MB are free"
            full = f"; the disk is full: {room}" if free < needed or "No space left" in str(error) else ""
            raise DataError(f"{self._folder} cannot be written: {error}{full}") from error


def write_store(
    out: Path,
    records: Iterable[RegionFeatures],
    *,
    dtype: str = "float16",
    extractor: str = "",
    extractor_weights: str = "",
    boxes: str = "",
    overwrite: bool = False,
) -> Manifest:
    """Writes ``records``, from a detector or a test, as a store; feature files go through ``build_store``."""
    refuse_to_replace(out, overwrite=overwrite)
    with StoreWriter(out, dtype=dtype, signature=f"records begun {_now()}") as writer:
        try:
            for regions in records:
                try:
                    writer.add(regions, ())
                except DataError as error:
                    raise DataError([f"image '{regions.image_id}': {text}" for text in error.problems]) from error
            return writer.finish(
                source_format="records",
                source="",
                origin=FeatureOrigin(extractor, extractor_weights, boxes),
                overwrite=overwrite,
            )
        except BaseException:
            writer.discard()
            raise


def _keep_freed_memory() -> None:
    """Lets glibc keep what a commit frees for the next one, which costs 40 page faults for an image otherwise.

    It gives memory back when more than twice the largest block that was ever mapped and freed is free; this is one.
    """
    bytes(_KEPT_BYTES)


def _saved_state(file: Path) -> BuildState | None:
    """What an earlier build of the same name left, if it can be read."""
    if not file.exists():
        return None
    try:
        handle = Handle(file)
        with handle.reading() as transaction:
            state = BuildState(**unpack_json(bytes(transaction.get(PROGRESS_KEY, b""))))
        handle.env.close()
    except (DataError, ValueError, TypeError):
        return None
    return state


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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


def _lock_file(folder: Path) -> IO[bytes]:
    """A lock file, held for as long as this process builds; a kill releases it."""
    if folder.is_symlink():
        raise DataError(f"{folder} is a link; nothing is built where it points. Remove it")
    try:
        return os.fdopen(lock_file(folder / _LOCK_FILE), "rb")
    except BlockingIOError as error:
        raise DataError(f"another process is building in {folder}") from error
    except OSError as error:
        raise DataError(f"{folder / _LOCK_FILE}: {error.strerror}") from error
