"""A store of real size: built, verified, and read by four processes of which one is killed again and again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faults.report import FOUND, LOST, SAME, Report
from vlrun.errors import DataError
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store
from vlrun.interfaces.examples import RegionFeatures

REGIONS, WIDTH = 36, 2048
READERS = 4
BATCH = 64
KILLED, DIFFERENT = -signal.SIGKILL, 3


def large_store(root: Path, report: Report, count: int, minutes: float) -> None:
    """Builds and verifies a store of ``count`` images of 36 regions, and reads it for ``minutes``.

    Every reader compares what it reads with what was written. One of them, by turns, is killed at a random moment of
    each second or two, and another one takes its place.
    """
    out = root / "large.lmdb"
    shutil.rmtree(out, ignore_errors=True)
    with report.case("large store", "built") as outcome:
        begin = time.monotonic()
        write_store(out, (_image(number) for number in range(count)), extractor="random", boxes=str(REGIONS))
        outcome(SAME, f"{count:,} images, {_gigabytes(out):.1f} GB in {time.monotonic() - begin:.0f} s")
    with report.case("large store", "verified") as outcome:
        begin = time.monotonic()
        done = subprocess.run(_verify(out), capture_output=True, text=True, check=False)
        said = _result(done)
        outcome(LOST if done.returncode else SAME, f"in {time.monotonic() - begin:.0f} s: {said}")
    with report.case("large store", f"read by {READERS} processes, one killed again and again") as outcome:
        kills, ends = _read_and_kill(out, minutes)
        bad = {status: number for status, number in ends.items() if status not in (0, KILLED)}
        detail = f"{kills} kills in {minutes:g} minutes; readers ended with {dict(ends)}"
        outcome(LOST if bad or not kills or ends[KILLED] != kills else SAME, detail)
    with report.case("large store", "verified after the kills") as outcome:
        done = subprocess.run(_verify(out), capture_output=True, text=True, check=False)
        outcome(LOST if done.returncode else SAME, _result(done))
    with report.case("large store", "cut while it is read") as outcome:
        outcome(*_cut(out))
    shutil.rmtree(out, ignore_errors=True)


def _image(number: int) -> RegionFeatures:
    """The image of a number: random, so that no compression makes it small, and cheap to make again."""
    rng = np.random.Generator(np.random.SFC64(number))
    features = rng.integers(0, 15 << 10, (REGIONS, WIDTH), np.uint16).view(np.float16)  # finite, from 0 to 1
    corners = rng.random((REGIONS, 2, 2), np.float32)
    corners.sort(axis=1)
    boxes = corners.reshape(REGIONS, 4) * 320 + np.array([0, 0, 160, 160], np.float32)
    return RegionFeatures(f"{number:012d}", features, boxes, 480, 480)


def _read_and_kill(out: Path, minutes: float) -> tuple[int, Counter[int]]:
    rng, kills, ends = random.Random(1), 0, Counter[int]()
    end = time.monotonic() + minutes * 60
    readers = [_reader(out, end, number) for number in range(READERS)]
    for number in _turns(end):
        time.sleep(rng.uniform(0.2, 2))
        reader = readers[number % READERS]
        if reader.poll() is None:
            reader.kill()
            kills += 1
        ends[reader.wait()] += 1
        readers[number % READERS] = _reader(out, end, READERS + number)
    ends.update(reader.wait() for reader in readers)
    return kills, ends


def _turns(end: float) -> Iterator[int]:
    number = 0
    while time.monotonic() < end - 5:
        yield number
        number += 1


def _reader(out: Path, end: float, seed: int) -> subprocess.Popen[bytes]:
    seconds = max(0.0, end - time.monotonic())
    return subprocess.Popen([sys.executable, "-m", "faults.large_store", str(out), str(seconds), str(seed)])


def _verify(out: Path) -> list[str]:
    return [sys.executable, "-m", "vlrun", "features", "verify", str(out)]


def _result(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[-1]


def _gigabytes(out: Path) -> float:
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e9


def _cut(out: Path) -> tuple[str, str]:
    """Half of the file goes while a process reads: its pages end in SIGBUS, which has to say what happened."""
    reader = subprocess.Popen(
        [sys.executable, "-m", "faults.large_store", str(out), "60", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    time.sleep(3)
    data = next(out.rglob("data.mdb"))
    os.truncate(data, data.stat().st_size // 2)
    said = reader.communicate()[0].decode().strip()
    is_clear = reader.returncode == DataError.exit_status and "data.mdb" in said and "Traceback" not in said
    return FOUND if is_clear else LOST, f"status {reader.returncode}; {(said.splitlines() or [''])[-1][:160]}"


def _read(out: Path, seconds: float, seed: int) -> int:
    """Reads batches of random images as a loader does; DIFFERENT if one is not what was written."""
    store, rng, end = RegionFeatureStore(out), np.random.default_rng(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        numbers = rng.choice(len(store), min(BATCH, len(store)), replace=False)
        batch = store.read([f"{number:012d}" for number in numbers])
        for place, number in enumerate(numbers[:8]):
            if not np.array_equal(batch.features[place], _image(number).features):
                return DIFFERENT
    return 0


if __name__ == "__main__":
    try:
        status = _read(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
    except DataError as error:
        print(error)
        status = error.exit_status
    raise SystemExit(status)
