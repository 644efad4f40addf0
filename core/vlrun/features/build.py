"""From the files of others to a store: read, check, write, and only then give it its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vlrun.errors import DataError, UsageError, first_few
from vlrun.features.formats import FeatureSource, SourceFormat, SourceRecord
from vlrun.features.layout import Manifest
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import DuplicateImageError, StoreWriter, refuse_to_replace
from vlrun.interfaces.reporter import ProgressCallback

MOST_PROBLEMS = 20

Format = TypeVar("Format", bound=SourceFormat)


@dataclass(frozen=True)
class Built:
    """The store that there is now; ``is_new`` is False where it was up to date."""

    path: Path
    manifest: Manifest
    is_new: bool


def build_store(
    paths: Sequence[Path],
    out: Path,
    feature_format: SourceFormat,
    *,
    dtype: str = "float16",
    extractor: str = "",
    overwrite: bool = False,
    expected_ids: Iterable[str] = (),
    say: Callable[[str], None] = lambda message: None,
    progress: ProgressCallback = lambda what, done, total: None,
) -> Built:
    """Imports ``paths`` into a store at ``out``.

    Streams: the memory needed does not grow with the source. A killed build continues when it is repeated. A store that
    was built from the same files with the same options stays as it is.

    Args:
        extractor: what made the features; kept in the manifest.
        expected_ids: canonical ids that must be among the images.
        say: is told at once what a user wants to know: that a build continues, or the first problem.
        progress: is told after each image what is done, how many there are, and of how many.

    Raises:
        DataError: a source is damaged or not complete, with up to 20 problems; then there is no store at ``out``.
    """
    source = _Sources([feature_format.open(path) for path in paths])
    signature = _signature(source.files(), feature_format.name, dtype, extractor)
    if not overwrite and (store := _store_at(out)) and store.manifest.source_signature == signature:
        _refuse_missing(store.missing(expected_ids), f"{out} was built before, from the same files")
        return Built(out, store.manifest, is_new=False)
    refuse_to_replace(out, overwrite=overwrite)

    with StoreWriter(out, dtype=dtype, signature=signature) as writer:
        if writer.has_discarded:
            say(f"an unfinished build of {out} was begun from other files or options: starting anew")
        if writer.state.count:
            say(f"continuing a build that stopped after {writer.state.count:,} images")
        problems = _copy(source, writer, say, progress)
        if problems:
            writer.discard()
            raise DataError([*problems, f"{out} was not built"])
        _refuse_missing(
            [image_id for image_id in dict.fromkeys(expected_ids) if image_id not in writer],
            f"{out} was not built; without --expect-ids the same command finishes it as it is",
        )
        manifest = writer.finish(
            source_format=feature_format.name, source=source.describe(), extractor=extractor, overwrite=overwrite
        )
    return Built(out, manifest, is_new=True)


def _copy(source: _Sources, writer: StoreWriter, say: Callable[[str], None], progress: ProgressCallback) -> list[str]:
    """Adds every record to ``writer``; after the first problem it only looks for more."""
    problems: list[str] = []
    expected = source.num_records()
    what = "importing images" if expected else "importing images (total estimated)"

    def note(location: str, error: DataError) -> None:
        if not problems:
            writer.only_check()
            say(f"{location}{error.problems[0]} (looking for more problems; nothing will be built)")
        problems.extend(f"{location}{problem}" for problem in error.problems)

    try:
        for record in source.records(writer.state.position):
            try:
                writer.add(record.load(), record.next)
            except DuplicateImageError as error:
                note("", DataError(_twice(source, record, error.image_id)))
            except DataError as error:
                note(f"{record.location}: ", error)
            if len(problems) >= MOST_PROBLEMS:
                return [*problems, f"stopped after {MOST_PROBLEMS} problems"]
            progress(
                what, writer.state.count, expected or round(writer.state.count / record.share) if record.share else 0
            )
    except DataError as error:  # the source cannot go on
        note("", error)
    if not problems and expected is not None and writer.state.count != expected:
        note("", DataError(f"{source.describe()}: {writer.state.count:,} of {expected:,} records were read"))
    if not problems and not writer.state.count:
        note("", DataError(f"{source.describe()} holds no records"))
    return problems


def _twice(source: _Sources, second: SourceRecord, image_id: str) -> str:
    places = (record.location for record in source.records() if record.image_id == image_id)
    return f"image '{image_id}' comes twice: {next(places, 'before')} and {second.location}"


def _refuse_missing(missing: Sequence[str], consequence: str) -> None:
    if missing:
        heading = f"{len(missing):,} expected images are missing from the source, among them:"
        shown = [f"    {image_id}" for image_id in first_few(missing, MOST_PROBLEMS)]
        raise DataError([heading, *shown, consequence])


def _store_at(out: Path) -> RegionFeatureStore | None:
    """The store at ``out``, if there is one that can be read."""
    try:
        store = RegionFeatureStore(out)
        _ = store.manifest
    except DataError:
        return None
    return store


def _signature(files: Iterable[str | os.PathLike[str]], *options: str) -> str:
    """Hash of names, sizes and dates of the source files, and of the options that change the result."""
    digest = hashlib.blake2b("\x1f".join(options).encode(), digest_size=16)
    for file in files:
        status = os.stat(file)
        digest.update(f"\x1e{os.path.basename(file)}\x1f{status.st_size}\x1f{status.st_mtime_ns}".encode())
    return digest.hexdigest()


class _Sources(FeatureSource):
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[FeatureSource]) -> None:
        self._sources = sources
        self._sizes = [sum(os.stat(file).st_size for file in source.files()) for source in sources]

    def files(self) -> list[str | os.PathLike[str]]:
        return [file for source in self._sources for file in source.files()]

    def describe(self) -> str:
        return ", ".join(source.describe() for source in self._sources)

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
    """The one format that recognises all of ``paths``; raises UsageError where none does, or several."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist")
    fitting = [found for found in formats.values() if all(found.recognises(path) for path in paths)]
    if len(fitting) == 1:
        return fitting[0]
    given = ", ".join(str(path) for path in paths)
    if fitting:
        raise UsageError(
            f"{given} can be read as {' or as '.join(f'--from {found.name}' for found in fitting)}: say which"
        )
    known = "\n".join(f"    --from {found.name}: {found.summary}" for found in formats.values())
    raise UsageError(f"{given}: no format recognises it. There are\n{known}")
