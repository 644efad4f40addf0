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
    Manifest,
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
    scan = _Scan()
    try:
        handle = Handle(file, readahead=True)
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # see above
        scan.read(handle, channel)
    except DataError as error:
        scan.problems += [Problem(None, text) for text in error.problems]
    listed = tuple(scan.problems[:LISTED_PROBLEMS])
    channel.send(Verification(path, scan.count, len(scan.problems), listed))


class _Scan:
    """One pass over all records."""

    def __init__(self) -> None:
        self.count = 0
        self.problems: list[Problem] = []
        self._headers: dict[bytes, Header] = {}

    def read(self, handle: Handle, channel: Connection) -> None:
        manifest = handle.manifest
        next_report = time.monotonic()
        try:
            with handle.reading() as transaction:
                for key, value in transaction.cursor():
                    self.problems += self._record_problems(bytes(key), value, manifest)
                    if time.monotonic() >= next_report:
                        channel.send((self.count, manifest.count))
                        next_report = time.monotonic() + _PROGRESS_SECONDS
        except DataError as error:  # LMDB cannot go on
            self.problems.append(Problem(None, str(error)))
        self.problems += [Problem(None, text) for text in self._store_problems(manifest)]
        if handle.ids != [key.decode(errors="replace") for key in self._headers]:
            self.problems.append(Problem(None, "the list of ids differs from the images"))

    def _record_problems(self, key: bytes, value: memoryview, manifest: Manifest) -> Iterator[Problem]:
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
        if kind != (expected := f"{manifest.dtype} features of width {manifest.feature_width}"):
            yield Problem(image_id, f"{kind}, expected {expected}")
        for text in find_problems(decode(image_id, value)):
            yield Problem(image_id, text)

    def _store_problems(self, manifest: Manifest) -> Iterator[str]:
        num_regions = [header.num_regions for header in self._headers.values()]
        checksums = ((key, header.checksum) for key, header in self._headers.items())
        if self.count != manifest.count:
            yield f"{self.count:,} images, the manifest promises {manifest.count:,}"
        elif compute_fingerprint(checksums) != manifest.fingerprint:
            yield f"the content does not have the fingerprint {manifest.fingerprint} of the manifest"
        elif (min(num_regions), max(num_regions)) != (manifest.min_regions, manifest.max_regions):
            expected = f"{manifest.min_regions} to {manifest.max_regions}"
            yield f"{min(num_regions)} to {max(num_regions)} regions, the manifest says {expected}"
