"""Importing feature files of other systems: read, check, write, and only then give the store its name."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vlrun.errors import DataError, UsageError, first_few
from vlrun.features.adapt import Adapted, IdTable
from vlrun.features.formats import FeatureSource, SourceFormat, SourceRecord
from vlrun.features.layout import Manifest
from vlrun.features.origin import UNKNOWN, FeatureOrigin
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import EncodedRecord, StoreWriter, encode_record, refuse_to_replace
from vlrun.interfaces.reporter import ProgressCallback

MAX_PROBLEMS = 20
_READ_AHEAD = 8  # records
_SKIP = "the same command with --skip-damaged leaves such images out"

Format = TypeVar("Format", bound=SourceFormat)


@dataclass(frozen=True)
class BuildResult:
    """A store; ``is_new`` is False where it was up to date."""

    path: Path
    manifest: Manifest
    is_new: bool


def build_store(
    paths: Sequence[Path],
    out: Path,
    feature_format: SourceFormat,
    *,
    dtype: str = "float16",
    origin: FeatureOrigin = UNKNOWN,
    ids: IdTable | None = None,
    normalised_boxes: bool = False,
    skip_damaged: bool = False,
    overwrite: bool = False,
    expected_ids: Iterable[str] = (),
    say: Callable[[str], None] = lambda message: None,
    progress: ProgressCallback = lambda what, done, total: None,
) -> BuildResult:
    """Imports ``paths`` into a store at ``out``.

    Memory does not grow with the source. A killed build continues when it is repeated. A store that was built from the
    same files with the same options stays as it is.

    Args:
        origin: what made the features; kept in the manifest. What it leaves open the source may know.
        ids: other ids for the images.
        normalised_boxes: whether the source has its boxes as parts of the image.
        skip_damaged: leave damaged records out, and images that come again, instead of building nothing.
        expected_ids: canonical ids that must be among the images.
        say: gets what a user should read at once: that a build continues, or the first problem.
        progress: called after each image.

    Raises:
        DataError: a source is damaged or not complete, with up to 20 problems; nothing is built.
    """
    source: FeatureSource = _Sources([feature_format.open(path) for path in paths])
    if ids is not None or normalised_boxes:
        source = Adapted(source, ids, normalised_boxes=normalised_boxes)
    if left_out := source.left_out():
        say(f"not read: {', '.join(first_few(left_out, 5))}")
    origin = origin.filled_from(source.origin())
    changes = ["normalised boxes"] * normalised_boxes + ["skip damaged"] * skip_damaged
    signature = _signature(source.files(), feature_format.name, dtype, *origin.as_json().values(), *changes)
    if not overwrite and (store := _up_to_date_store(out, signature)):
        _refuse_missing(store.missing(expected_ids), f"{out} was built before, from the same files")
        return BuildResult(out, store.manifest, is_new=False)
    refuse_to_replace(out, overwrite=overwrite)

    with StoreWriter(out, dtype=dtype, signature=signature) as writer:
        if writer.has_discarded:
            say(f"an unfinished build of {out} was begun from other files or options: starting anew")
        if writer.state.count:
            say(f"continuing a build that stopped after {writer.state.count:,} images")
        problems = _copy(source, writer, say, progress, skip_damaged=skip_damaged)
        if problems:
            writer.discard()
            raise DataError([*problems, f"{out} was not built"])
        _refuse_missing(
            [image_id for image_id in dict.fromkeys(expected_ids) if image_id not in writer],
            f"{out} was not built; without --expect-ids the same command finishes it as it is",
        )
        manifest = writer.finish(
            source_format=feature_format.name,
            source=source.describe(),
            origin=origin,
            ids=ids.label if ids else "",
            overwrite=overwrite,
        )
    return BuildResult(out, manifest, is_new=True)


def _copy(
    source: FeatureSource,
    writer: StoreWriter,
    say: Callable[[str], None],
    progress: ProgressCallback,
    *,
    skip_damaged: bool,
) -> list[str]:
    """Adds every record to ``writer``; after the first problem it only looks for more. Returns all problems."""
    problems: list[str] = []
    can_skip = False
    expected = source.num_records()
    activity = "importing images" if expected else "importing images (total estimated)"

    def add_problems(new: Iterable[str]) -> None:
        for problem in new:
            if not problems:
                writer.only_check()
                say(f"{problem} (looking for more problems; nothing will be built)")
            problems.append(problem)

    def refuse(record: SourceRecord, found: Iterable[str]) -> None:
        if skip_damaged:
            writer.skip(record.next)
            if writer.state.skipped <= MAX_PROBLEMS:
                say(f"left out: {'; '.join(found)}")
        else:
            add_problems(found)
            nonlocal can_skip
            can_skip = True

    try:
        for record, encoded in _encoded(source.records(writer.state.position), writer.dtype):
            try:
                if record.image_id in writer:
                    refuse(record, [_duplicate_problem(source, record)])
                else:
                    writer.add_encoded(encoded.result(), record.next)
            except DataError as error:
                refuse(record, [f"{record.location}: {problem}" for problem in error.problems])
            if len(problems) >= MAX_PROBLEMS:
                return [*problems, f"stopped after {MAX_PROBLEMS} problems", _SKIP]
            done = writer.state.count
            progress(activity, done, expected or (round(done / record.share) if record.share else 0))
    except DataError as error:  # the source cannot go on
        add_problems(error.problems)
    count, read = writer.state.count, writer.state.count + writer.state.skipped
    if not problems and expected is not None and read != expected:
        add_problems([f"{source.describe()}: {read:,} of {expected:,} records were read"])
    if not problems and not count:
        add_problems([f"{source.describe()} holds no records"])
    return [*problems, *([_SKIP] if can_skip else [])]


def _encoded(records: Iterator[SourceRecord], dtype: str) -> Iterator[tuple[SourceRecord, Future[EncodedRecord]]]:
    """The records in order, each with what is to be written of it: this thread reads while another one encodes."""
    waiting: deque[tuple[SourceRecord, Future[EncodedRecord]]] = deque()
    failure = None
    with ThreadPoolExecutor(1, "store-encoder") as pool:
        try:
            for record in records:
                waiting.append((record, _begin(record, dtype, pool)))
                if len(waiting) > _READ_AHEAD:
                    yield waiting.popleft()
        except DataError as error:
            failure = error
        yield from waiting
    if failure is not None:
        raise failure


def _begin(record: SourceRecord, dtype: str, pool: ThreadPoolExecutor) -> Future[EncodedRecord]:
    try:
        return pool.submit(encode_record, record.load(), dtype)
    except DataError as error:
        failed: Future[EncodedRecord] = Future()
        failed.set_exception(error)
        return failed


def _duplicate_problem(source: FeatureSource, second: SourceRecord) -> str:
    places = (record.location for record in source.records() if record.image_id == second.image_id)
    return f"image '{second.image_id}' comes twice: {next(places, 'before')} and {second.location}"


def _refuse_missing(missing: Sequence[str], consequence: str) -> None:
    if missing:
        heading = f"{len(missing):,} expected images are missing from the source, among them:"
        shown = [f"    {image_id}" for image_id in first_few(missing, MAX_PROBLEMS)]
        raise DataError([heading, *shown, consequence])


def _up_to_date_store(out: Path, signature: str) -> RegionFeatureStore | None:
    with suppress(DataError):  # there is none, or it cannot be read
        store = RegionFeatureStore(out)
        if store.manifest.source_signature == signature:
            return store
    return None


def _signature(files: Iterable[str | os.PathLike[str]], *options: str) -> str:
    """Hash of the names, sizes and dates of the source files, and of the options that change the result."""
    digest = hashlib.blake2b("\x1f".join(options).encode(), digest_size=16)
    for file in files:
        status = os.stat(file)
        facts = f"\x1e{os.path.basename(file)}\x1f{status.st_size}\x1f{status.st_mtime_ns}"
        digest.update(facts.encode(errors="surrogateescape"))  # a name need not be UTF-8
    return digest.hexdigest()


class _Sources(FeatureSource):
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[FeatureSource]) -> None:
        self._sources = sources
        self._sizes = [sum(os.stat(file).st_size for file in source.files()) for source in sources]

    def files(self) -> list[str | os.PathLike[str]]:
        return [file for source in self._sources for file in source.files()]

    def left_out(self) -> list[str]:
        return [name for source in self._sources for name in source.left_out()]

    def describe(self) -> str:
        return ", ".join(source.describe() for source in self._sources)

    def origin(self) -> FeatureOrigin:
        """What all sources agree on."""
        origins = {source.origin() for source in self._sources}
        return origins.pop() if len(origins) == 1 else UNKNOWN

    def num_records(self) -> int | None:
        counts = [source.num_records() for source in self._sources]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        first, inner = position or (0, ())
        total = max(sum(self._sizes), 1)
        for number in range(first, len(self._sources)):
            before, size = sum(self._sizes[:number]), self._sizes[number]
            for record in self._sources[number].records(inner):
                share = (before + record.share * size) / total
                yield replace(record, next=(number, list(record.next)), share=share)
            inner = ()


def detect_format(paths: Sequence[Path], formats: Mapping[str, Format]) -> Format:
    """The one format that recognises all of ``paths``.

    Raises:
        DataError: a path does not exist.
        UsageError: no format recognises them all, or several do.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist")
    fitting = [candidate for candidate in formats.values() if all(candidate.recognises(path) for path in paths)]
    if len(fitting) == 1:
        return fitting[0]
    given = ", ".join(str(path) for path in paths)
    if fitting:
        choices = " or as ".join(f"--from {candidate.name}" for candidate in fitting)
        raise UsageError(f"{given} can be read as {choices}: say which")
    known = "\n".join(f"    --from {candidate.name}: {candidate.summary}" for candidate in formats.values())
    raise UsageError(f"{given}: no format recognises it. There are\n{known}")
