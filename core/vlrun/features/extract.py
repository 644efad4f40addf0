"""From a folder of pictures to a store, with a detector: resumable, in several processes, and past bad pictures."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrun.cpus import usable_cpus
from vlrun.errors import DataError, RunnerError, first_few
from vlrun.features.layout import Manifest
from vlrun.features.origin import FeatureOrigin
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import StoreWriter, refuse_to_replace
from vlrun.interfaces.detector import Detector
from vlrun.interfaces.examples import PICTURE_SUFFIXES, RegionFeatures, canonical_image_id
from vlrun.interfaces.reporter import ProgressCallback

_AHEAD = 2  # pictures that are read while another is with the detector
_KEEP_SECONDS = 20.0  # what a kill may cost, besides the pictures in work
_LOOK_SECONDS = 5.0  # how often a process that waits looks whether those that it waits for still live

Item = tuple[str, Path]
Outcome = RegionFeatures | DataError


@dataclass(frozen=True)
class Extracted:
    """The store that there is now, and the pictures that are not in it, each with the reason.

    ``is_new`` is False where it held all of them before.
    """

    path: Path
    manifest: Manifest
    failed: tuple[str, ...]
    is_new: bool


def find_pictures(path: Path) -> list[Path]:
    """The pictures below a folder, by name, or the one file that ``path`` is.

    Raises:
        DataError: there are none; the message says what is there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist")
    found, other = [], 0
    for file in _files_below(path):
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith("."):
            found.append(file)
        else:
            other += 1
    if not found:
        raise DataError(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}), only {other:,} other files")
    return sorted(found)


def _files_below(folder: Path) -> Iterator[Path]:
    """Through links to folders too, but into no folder twice."""
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(where, name) for name in files)


def extract_store(
    pictures: Sequence[Path],
    out: Path,
    make_detector: Callable[[], Detector],
    *,
    source: str,
    processes: int = 1,
    dtype: str = "float16",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda message: None,
    progress: ProgressCallback = lambda what, done, total: None,
) -> Extracted:
    """Detects the regions of ``pictures`` and writes them into a store at ``out``.

    A killed extraction continues when it is repeated. A store that the same detector made keeps what it has and gets
    what it lacks. A picture that fails costs nobody else anything.

    Args:
        make_detector: makes the detector; picklable where there is more than one process.
        source: where the pictures are from, for the manifest.
        say: is told at once of every picture that fails, and of what continues.

    Raises:
        DataError: no picture gave features, ``out`` holds something else, or a process died.
    """
    detector = make_detector()
    origin = FeatureOrigin.of(detector)
    made = "\x1f".join((*origin.as_json().values(), dtype))
    signature = hashlib.blake2b(made.encode(), digest_size=16).hexdigest()
    wanted, failed = _by_id(pictures, say)
    before = None if overwrite else _same_store(out, signature)
    known: Mapping[str, RegionFeatures] | RegionFeatureStore = {} if before is None else before
    if before is None:
        refuse_to_replace(out, overwrite=overwrite)
    elif not before.missing(wanted):
        return Extracted(out, before.manifest, tuple(failed), is_new=False)

    with StoreWriter(out, dtype=dtype, signature=signature) as writer:
        if writer.has_discarded:
            say(f"an unfinished store of {out} was made in another way; starting anew")
        if writer.state.count:
            say(f"continuing an extraction that stopped after {writer.state.count:,} pictures")
        todo = [(image_id, file) for image_id, file in wanted.items() if not (image_id in writer or image_id in known)]
        if processes > 1:
            del detector  # each process makes its own
            outcomes = _computed_elsewhere(make_detector, todo, min(processes, len(todo)))
        else:
            outcomes = _computed(detector, iter(todo))
        _collect(outcomes, writer, failed, (len(wanted) - len(todo), len(wanted)), say, progress)
        if not writer.state.count:
            writer.discard()
            if before is not None:
                return Extracted(out, before.manifest, tuple(failed), is_new=False)
            raise DataError([*first_few(failed), f"no picture gave features; {out} was not made"])
        # at the end, for where all that is new has failed again there is nothing to copy
        for image_id in known:
            if image_id not in writer:
                writer.add(known[image_id], ())
        manifest = writer.finish(
            source_format="pictures", source=source, origin=origin, overwrite=overwrite or before is not None
        )
    return Extracted(out, manifest, tuple(failed), is_new=True)


def _by_id(pictures: Sequence[Path], say: Callable[[str], None]) -> tuple[dict[str, Path], list[str]]:
    """Pictures by image id, and a line for each whose id another has."""
    wanted: dict[str, Path] = {}
    failed = []
    for picture in pictures:
        image_id = canonical_image_id(picture.name)
        if wanted.setdefault(image_id, picture) != picture:
            failed.append(f"{picture}: its image id '{image_id}' is that of {wanted[image_id]}")
            say(failed[-1])
    return wanted, failed


def _same_store(out: Path, signature: str) -> RegionFeatureStore | None:
    """The store at ``out``, if the same detector made it in the same way."""
    try:
        store = RegionFeatureStore(out)
        return store if store.manifest.source_signature == signature else None
    except DataError:
        return None


def _collect(
    outcomes: Iterable[tuple[Item, Outcome]],
    writer: StoreWriter,
    failed: list[str],
    done_of: tuple[int, int],
    say: Callable[[str], None],
    progress: ProgressCallback,
) -> None:
    kept = time.monotonic()
    done, total = done_of
    progress("extracting features", done, total)
    for number, ((_, picture), outcome) in enumerate(outcomes, done + 1):
        try:
            if isinstance(outcome, DataError):
                raise outcome
            writer.add(outcome, ())
        except DataError as error:
            failed.append(f"{picture}: {'; '.join(error.problems)}")
            say(failed[-1])
        progress("extracting features", number, total)
        if time.monotonic() - kept >= _KEEP_SECONDS:
            writer.flush()
            kept = time.monotonic()


def _computed(detector: Detector, todo: Iterator[Item]) -> Iterator[tuple[Item, Outcome]]:
    """What becomes of each picture, in order; the next ones are read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        read: deque[tuple[Item, Future[Any]]] = deque()
        for item in todo:
            read.append((item, reader.submit(detector.read, item[1])))
            if len(read) > _AHEAD:
                yield _detected(detector, *read.popleft())
        while read:
            yield _detected(detector, *read.popleft())


def _detected(detector: Detector, item: Item, read: Future[Any]) -> tuple[Item, Outcome]:
    try:
        return item, detector.detect(item[0], read.result())
    except DataError as error:
        return item, error


def _computed_elsewhere(
    make_detector: Callable[[], Detector], todo: Sequence[Item], count: int
) -> Iterator[tuple[Item, Outcome]]:
    """The same by ``count`` processes, as each of them finishes."""
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue(maxsize=4 * count)
    workers = [context.Process(target=_work, args=(make_detector, tasks, results), daemon=True) for _ in range(count)]
    try:
        with _threads_for(count):
            for worker in workers:
                worker.start()
        for item in [*todo, *[None] * count]:
            tasks.put(item)
        running = count
        while running:
            result = _next_result(results, workers)
            if result is None:
                running -= 1
            elif isinstance(result, RunnerError):
                raise result
            else:
                yield result
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        tasks.cancel_join_thread()


def _next_result(results: Any, workers: Sequence[Any]) -> Any:
    while True:
        try:
            return results.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if died := [worker.exitcode for worker in workers if worker.exitcode]:
                raise DataError(
                    f"a process that computes features died (exit status {died[0]}); if the memory was full, use fewer "
                    "processes. What is done is kept: the same command continues"
                ) from None


def _work(make_detector: Callable[[], Detector], tasks: Any, results: Any) -> None:
    """One process: takes pictures until there are none, and answers None at the end, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process hears it too, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for outcome in _computed(make_detector(), iter(tasks.get, None)):
            results.put(outcome)
        results.put(None)
    except RunnerError as error:
        results.put(error)
    except Exception:
        results.put(RunnerError(f"a process that computes features met a bug:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    """A main process that is killed ends nobody; without it, this one would work for nothing or wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _threads_for(count: int) -> Iterator[None]:
    """Processes that start within share the cores, unless the user has said how many threads each has."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, usable_cpus() // count))
    try:
        yield
    finally:
        del os.environ[name]
