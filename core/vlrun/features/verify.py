"""Checking a whole store.

A child process reads the records: over a damaged page LMDB reads past the end of the file, and the system kills the
process (SIGBUS) before any message.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from vlrun.errors import DataError
from vlrun.features.checks import find_problems
from vlrun.features.handles import Handle, find_store_file
from vlrun.features.layout import (
    IDS_KEY,
    MANIFEST_KEY,
    Header,
    compute_fingerprint,
    decode,
    is_intact,
    read_header,
)
from vlrun.interfaces.reporter import ProgressCallback

LISTED_PROBLEMS = 20
_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Problem:
    """Something wrong with one image, or with the store as a whole (``image_id`` is None)."""

    image_id: str | None
    text: str

    def __str__(self) -> str:
        return self.text if self.image_id is None else f"image '{self.image_id}': {self.text}"


@dataclass(frozen=True)
class Verification:
    """The result: ``count`` images, ``num_problems`` in all, the first of them in ``problems``."""

    path: Path
    count: int
    num_problems: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem."""
        return self.num_problems == 0


def verify_store(path: Path, progress: ProgressCallback = lambda what, done, total: None) -> Verification:
    """Checks every record of a store.

    Raises:
        DataError: there is no store at ``path``.
    """
    file = find_store_file(path).resolve()
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_verify, args=(path, file, sender))
    child.start()
    sender.close()  # so that the pipe ends with the child
    try:
        while not isinstance(message := receiver.recv(), Verification):
            progress("verifying images", *message)
        return message
    except EOFError:
        child.join()
        assert child.exitcode is not None
        if child.exitcode >= 0:
            raise RuntimeError(f"verifying {path} failed; the traceback is above") from None
        crash = signal.Signals(-child.exitcode).name
        return Verification(path, 0, 1, (Problem(None, f"reading it crashed ({crash}): the file is damaged"),))
    finally:
        child.kill()
        child.join()


def _verify(path: Path, file: Path, channel: Connection) -> None:
    """Runs in the child; sends (done, total) now and then, and a Verification at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    faulthandler.disable()  # and it reports a crash
    problems: list[Problem] = []
    count = 0
    try:
        scan = _Scan(Handle(file, readahead=True), channel)
        for problem in scan.problems():
            problems.append(problem)
            count = scan.count
        count = scan.count
    except DataError as error:
        problems += [Problem(None, text) for text in error.problems]
    channel.send(Verification(path, count, len(problems), tuple(problems[:LISTED_PROBLEMS])))


class _Scan:
    """One pass over all records."""

    def __init__(self, handle: Handle, channel: Connection) -> None:
        self._handle = handle
        self._manifest = handle.manifest
        self._channel = channel
        self._headers: dict[bytes, Header] = {}
        self.count = 0

    def problems(self) -> Iterator[Problem]:
        next_report = time.monotonic()
        try:
            with self._handle.reading() as transaction:
                for key, value in transaction.cursor():
                    yield from self._record_problems(bytes(key), value)
                    if time.monotonic() >= next_report:
                        self._channel.send((self.count, self._manifest.count))
                        next_report = time.monotonic() + _PROGRESS_SECONDS
        except DataError as error:
            yield Problem(None, str(error))
        yield from self._store_problems()

    def _record_problems(self, key: bytes, value: memoryview) -> Iterator[Problem]:
        if key.startswith(b"\x00"):
            if key not in (MANIFEST_KEY, IDS_KEY):
                yield Problem(None, f"unexpected key {key!r}")
            return
        self.count += 1
        image_id = key.decode(errors="replace")
        try:
            header = self._headers[key] = read_header(value)
        except ValueError as error:
            yield Problem(image_id, str(error))
            return
        if not is_intact(key, value, header):
            yield Problem(image_id, "wrong checksum: the record changed after it was written")
            return
        kind = f"{header.dtype} features of width {header.feature_width}"
        if kind != (expected := f"{self._manifest.dtype} features of width {self._manifest.feature_width}"):
            yield Problem(image_id, f"{kind}, expected {expected}")
        for text in find_problems(decode(image_id, value)):
            yield Problem(image_id, text)

    def _store_problems(self) -> Iterator[Problem]:
        manifest, headers = self._manifest, self._headers
        num_regions = [header.num_regions for header in headers.values()]
        if self.count != manifest.count:
            yield Problem(None, f"{self.count:,} images, the manifest promises {manifest.count:,}")
        elif manifest.fingerprint != compute_fingerprint((key, header.checksum) for key, header in headers.items()):
            yield Problem(None, f"the content does not have the fingerprint {manifest.fingerprint} of the manifest")
        elif (manifest.min_regions, manifest.max_regions) != (min(num_regions), max(num_regions)):
            expected = f"{manifest.min_regions} to {manifest.max_regions}"
            yield Problem(None, f"{min(num_regions)} to {max(num_regions)} regions, the manifest says {expected}")
        if self._handle.ids != [key.decode(errors="replace") for key in headers]:
            yield Problem(None, "the list of ids differs from the images")
