"""Training, mining, evaluation and reports in one process for hours: what it holds must not grow.

Linux only: what a process holds is read from /proc.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path, PurePath
from statistics import median

from faults.report import LOST, SAME, Report
from faults.world import Facts, World, differences, facts

Sample = Mapping[str, float]
"""What this process holds after a round, by name."""

MEMORY, IN_USE = "memory MB", "allocated MB"
ALLOWED = {MEMORY: 0.02, IN_USE: 0.002, "Python objects": 0.005}
"""Share by which it may seem to grow, for allocators and caches breathe; everything else may not at all.

Memory that is allocated tells a leak from pages that the allocator has not given back.
"""


def loop(world: World, report: Report, whole: Facts, hours: float, curve: Path) -> None:
    """Rounds until the hours are over, by turns with and without a loader worker; writes ``curve`` line by line."""
    from vlrun.cli import main

    os.environ["VLRUN_CACHE"] = world.environment["VLRUN_CACHE"]
    temporary = world.root / "temporary"
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)  # what others put into the system's does not count
    case, samples, wrong = "loop", list[Sample](), list[str]()
    begin = time.monotonic()
    curve.parent.mkdir(parents=True, exist_ok=True)
    with report.case("loop", f"{hours:g} hours in one process") as outcome, curve.open("w", encoding="utf-8") as file:
        while time.monotonic() - begin < hours * 3600 and not wrong:
            for arguments in _round(world, case, workers=len(samples) % 2):
                said = io.StringIO()
                with redirect_stdout(said), redirect_stderr(said):
                    status = main(arguments)
                if status:
                    wrong.append(f"{arguments[0]}: {(said.getvalue().strip().splitlines() or [''])[-1][:160]}")
            wrong += differences(whole, facts(world.folder(case)))
            world.forget(case)
            if not samples:
                _fill_table_of_names()
            samples.append(held(time.monotonic() - begin))
            file.write(json.dumps(samples[-1]) + "\n")
            file.flush()
        wrong += grown(samples)
        outcome(LOST if wrong else SAME, "; ".join(wrong) or f"{len(samples)} rounds: {_ends(samples)}")


def _round(world: World, case: str, workers: int) -> Iterator[list[str]]:
    yield world.arguments(case, f"train.workers={workers}")
    folder = str(world.folder(case))
    yield ["evaluate", folder, "--split", "val", "--task", "retrieval", "--json"]
    yield ["mine-negatives", folder, "--out", str(world.root / "mined.npz")]
    yield ["report", "--html", folder]


def held(seconds: float) -> Sample:
    """Memory that is this process's own, open files, threads, children, shared memory and temporary files."""
    gc.collect()
    process = Path("/proc/self")
    own = next(line for line in (process / "smaps_rollup").read_text().splitlines() if line.startswith("Anonymous:"))
    return {
        "minutes": round(seconds / 60, 2),
        MEMORY: round(int(own.split()[1]) / 1000, 1),
        **({} if (allocated := _allocated()) is None else {IN_USE: round(allocated / 1e6, 2)}),
        "Python objects": len(gc.get_objects()),
        "open files": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "Python threads": threading.active_count(),
        "children": sum(len((task / "children").read_text().split()) for task in (process / "task").iterdir()),
        "mapped files": len({line.split()[-1] for line in (process / "maps").read_text().splitlines() if "/" in line}),
        "shared memory": sum(path.is_file() for path in Path("/dev/shm").iterdir()),
        "temporary files": len(list(Path(tempfile.gettempdir()).iterdir())),
    }


def _fill_table_of_names() -> None:
    """Lets Python's table of interned strings come to the size that it keeps.

    ``pathlib`` puts every part of a path there. Names that are gone leave holes, and once these have filled the table
    it doubles, once, by megabytes: after an hour of this loop.
    """
    for number in range(500_000):
        PurePath(f"/{number}").parts  # noqa: B018


class _Allocations(ctypes.Structure):
    """``struct mallinfo2`` of <malloc.h>."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def _allocated() -> int | None:
    """Bytes that this process has from glibc and not given back; None with another C library."""
    with suppress(AttributeError):
        ask = ctypes.CDLL(None).mallinfo2
        ask.restype = _Allocations
        found = ask()
        return int(found.uordblks + found.hblkhd)
    return None


def grown(samples: Sequence[Sample]) -> list[str]:
    """What is more in the last quarter of the rounds than in the second one, by their medians."""
    quarter = len(samples) // 4
    if quarter < 2:
        return [f"{len(samples)} rounds are too few to see whether something grows"]
    found = []
    for name in samples[0]:
        early, late = (
            median(sample[name] for sample in part) for part in (samples[quarter : 2 * quarter], samples[-quarter:])
        )
        if name != "minutes" and late > early * (1 + ALLOWED.get(name, 0)):
            found.append(f"{name} grew from {early:g} to {late:g}")
    return found


def _ends(samples: Sequence[Sample]) -> str:
    quarter = len(samples) // 4
    return ", ".join(f"{name} {samples[quarter][name]:g} then {samples[-1][name]:g}" for name in samples[0])
