"""Reading a whole store with suspicion.

The reading happens in a process of its own, because a page that was damaged in a bad place can crash LMDB.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlrun.errors import DataError
from vlrun.features.checks import problems_of
from vlrun.features.handles import Handle, find_store_file
from vlrun.features.layout import (
    IDS_KEY,
    MANIFEST_KEY,
    Header,
    Manifest,
    decode,
    fingerprint_of,
    is_intact,
    read_header,
)
from vlrun.interfaces.reporter import ProgressCallback

KEPT_PROBLEMS = 20
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
    """What was found: ``num_problems`` in all, the first of them in ``problems``."""

    path: Path
    count: int
    num_problems: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return self.num_problems == 0


def verify_store(path: Path, progress: ProgressCallback = lambda what, done, total: None) -> Verification:
    """Checks every record of a store; ``progress`` is told now and then what is done, how many are, and of how many.

    Raises:
        DataError: there is no store at ``path``.
    """
    file = find_store_file(path).resolve()
    packages = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __name__, str(file)]
    found: dict[str, Any] = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": search_path}
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            found = json.loads(line)
            if "done" in found:
                progress("verifying images", found["done"], found["total"])
    if child.returncode < 0:
        crash = signal.Signals(-child.returncode).name
        return Verification(path, 0, 1, (Problem(None, f"reading it crashed ({crash}): the file is damaged"),))
    if child.returncode:  # a bug, whose traceback has been shown
        raise subprocess.CalledProcessError(child.returncode, command)
    problems = tuple(Problem(**problem) for problem in found["problems"])
    return Verification(path, found["count"], found["num_problems"], problems)


class _Scan:
    """One pass over all records."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._manifest = handle.manifest
        self._checksums: list[tuple[bytes, int]] = []
        self._fewest, self._most = sys.maxsize, 0
        self.count = 0

    def problems(self) -> Iterator[Problem]:
        told = -math.inf
        try:
            with self._handle.reading() as transaction:
                for key, value in transaction.cursor():
                    yield from self._record_problems(bytes(key), value)
                    if time.monotonic() - told > _PROGRESS_SECONDS:
                        told = time.monotonic()
                        _report({"done": self.count, "total": self._manifest.count})
        except DataError as error:
            yield Problem(None, str(error))
        yield from self._total_problems()

    def _record_problems(self, key: bytes, value: memoryview) -> Iterator[Problem]:
        if key.startswith(b"\x00"):
            if key not in (MANIFEST_KEY, IDS_KEY):
                yield Problem(None, f"unexpected key {key!r}")
            return
        self.count += 1
        image_id = key.decode(errors="replace")
        try:
            header = read_header(value)
        except ValueError as error:
            yield Problem(image_id, str(error))
            return
        self._checksums.append((key, header.checksum))
        self._fewest = min(self._fewest, header.num_regions)
        self._most = max(self._most, header.num_regions)
        if not is_intact(key, value, header):
            yield Problem(image_id, "wrong checksum: the record changed after it was written")
            return
        if not _fits(header, self._manifest):
            expected = f"{self._manifest.dtype} and width {self._manifest.feature_width}"
            yield Problem(image_id, f"{header.dtype} features of width {header.feature_width}, expected {expected}")
        for text in problems_of(decode(image_id, value)):
            yield Problem(image_id, text)

    def _total_problems(self) -> Iterator[Problem]:
        manifest = self._manifest
        if self.count != manifest.count:
            yield Problem(None, f"{self.count:,} images, the manifest promises {manifest.count:,}")
        elif fingerprint_of(self._checksums) != manifest.fingerprint:
            yield Problem(None, f"the content does not have the fingerprint {manifest.fingerprint} of the manifest")
        elif (self._fewest, self._most) != (manifest.min_regions, manifest.max_regions):
            found = f"{self._fewest} to {self._most} regions an image"
            yield Problem(None, f"{found}, the manifest says {manifest.min_regions} to {manifest.max_regions}")
        if self._handle.ids != [key.decode(errors="replace") for key, _ in self._checksums]:
            yield Problem(None, "the list of ids differs from the images")


def _fits(header: Header, manifest: Manifest) -> bool:
    return header.feature_width == manifest.feature_width and header.dtype == manifest.dtype


def _scan(file: Path) -> dict[str, Any]:
    """What the child process reports at its end."""
    found: list[Problem] = []
    count = num_problems = 0
    try:
        scan = _Scan(Handle(file, readahead=True))
        for problem in scan.problems():
            num_problems += 1
            count = scan.count
            if len(found) < KEPT_PROBLEMS:
                found.append(problem)
        count = scan.count
    except DataError as error:
        found += [Problem(None, text) for text in error.problems]
        num_problems += len(error.problems)
    return {"count": count, "num_problems": num_problems, "problems": [asdict(problem) for problem in found]}


def _report(found: Mapping[str, Any]) -> None:
    """Tells the parent process, a line at a time."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _report(_scan(Path(sys.argv[1])))
