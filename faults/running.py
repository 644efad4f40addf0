"""Files that change under a run that reads them, and a loss that is not finite on one of two ranks."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from faults.report import FOUND, LOST, SAME, Report
from faults.world import HERE, Facts, World, differences, ended, facts
from vlrun.errors import DataError, DistributedError, NonFiniteLossError


def running(world: World, report: Report, whole: Facts, store: Path) -> None:
    """Every change with and without a loader worker, from the first checkpoint on; what was there comes back."""
    annotations = next(world.root.rglob("annotations/flickr30k*/train.jsonl"))
    changes: Mapping[str, tuple[Path, Callable[[Path], None]]] = {
        "store replaced": (store, _replaced),
        "store overwritten in place": (store, _overwritten),
        "store cut": (store, _cut),
        "store removed": (store, Path.unlink),
        "annotations replaced": (annotations, _replaced),
        "annotations overwritten in place": (annotations, _overwritten),
        "annotations removed": (annotations, Path.unlink),
    }
    for kind, (path, change) in changes.items():
        for workers in (0, 1):
            with report.case("changed under a run", f"{kind}, {workers} workers") as outcome:
                outcome(*_changed(world, whole, path, change, workers))
    with report.case("two processes", "a loss of one rank is not finite") as outcome:
        outcome(*_not_finite(world))


def _changed(world: World, whole: Facts, path: Path, change: Callable[[Path], None], workers: int) -> tuple[str, str]:
    case, kept = "changed", world.root / "kept"
    shutil.copyfile(path, kept)
    process = world.start(world.command(case, f"train.workers={workers}"))
    while not (world.folder(case) / "checkpoints" / "last").exists() and process.poll() is None:
        time.sleep(0.02)
    change(path)
    done = ended(process)
    os.replace(kept, path)
    wrong = differences(whole, facts(world.folder(case)))
    world.forget(case)
    if done.status == 0:
        return (LOST if wrong else SAME), ", ".join(wrong)
    is_said = path.name in done.output or path.parent.name in done.output
    is_clear = done.is_plain and is_said and done.status in (DataError.exit_status, DistributedError.exit_status)
    return FOUND if is_clear else LOST, f"status {done.status}; {done.last_line()}"


def _replaced(path: Path) -> None:
    """By a file of the same length, as a new download or build would."""
    draft = path.with_name("draft")
    shutil.copyfile(path, draft)
    _overwritten(draft)
    os.replace(draft, path)


def _overwritten(path: Path) -> None:
    rng = random.Random(1)
    with path.open("r+b") as file:
        for place in range(0, path.stat().st_size, 4096):
            file.seek(place + rng.randrange(4096))
            file.write(bytes([rng.randrange(256)]))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _not_finite(world: World) -> tuple[str, str]:
    """All ranks stop together, with the ids of the batch, and the last checkpoint is as good as before."""
    case = "not-finite"
    paths = os.pathsep.join([str(HERE / "injected"), os.environ.get("PYTHONPATH", "")])
    injected = {"PYTHONPATH": paths, "VLRUN_FAULT": "nan"}
    done = world.run(case, "--nproc", "2", "train.checkpoint_every=1", changes=injected)
    last = world.folder(case) / "checkpoints" / "last"
    is_said = done.status == NonFiniteLossError.exit_status and done.is_plain and "Examples: " in done.output
    is_clear = is_said and last.exists()
    world.forget(case)
    return FOUND if is_clear else LOST, f"status {done.status}; {done.last_line()}"
