"""Writers on a disk that fills up: a small tmpfs, where this user may mount one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.kills import check_resume
from faults.report import FOUND, LOST, Report
from faults.world import Ended, Facts, World, ended


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Mounts a tmpfs of this size at ``folder`` while it is open; False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def make_room(folder: Path, kilobytes: int) -> None:
    """Gives a tmpfs another size."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def full_disks(world: World, report: Report, whole: Facts, used: int, count: int) -> None:
    """Runs on disks of ``count`` sizes up to that which a run needs; then room is made, and the run goes on.

    Args:
        used: kilobytes of a whole run.
    """
    for number in range(count):
        case, size = f"disk{number}", 40 + round(used * (number + 0.5) / count)
        disk = world.root / "runs" / case
        with small_disk(disk, size) as is_mounted, report.case("disk full", "a run") as outcome:
            if not is_mounted:
                return
            done = world.run(case)
            if done.status == 0:
                outcome(FOUND, f"{size} KB were enough")
            elif not done.is_plain or not _names_the_need(done):
                outcome(LOST, f"{size} KB: status {done.status}; {done.last_line()}")
            else:
                make_room(disk, 8 * used)
                check_resume(world, case, whole, done, outcome)


def full_commands(world: World, report: Report, finished: Path, store: Path) -> None:
    """Commands that write one thing each: what was there stays, the message says what is missing, then they work."""
    disk = world.root / "small"
    files = store.parents[1] / "sources" / f"{store.name}-features"  # what the demo's store is built of
    commands = {
        "predictions": ["predict", str(disk / "run")],
        "export": ["weights", "export", str(disk / "run"), str(disk / "exported.safetensors")],
        "a store": ["features", "build", "--from", "lxmert-tsv", str(files), str(disk / "copied.lmdb")],
        "negatives": ["mine-negatives", str(disk / "run"), "--task", "retrieval", "--split", "train"],
        "the report": ["report", "--html", str(disk / "run")],
    }
    size = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file()) // 1024
    for kind, arguments in commands.items():
        with small_disk(disk, 4 * size) as is_mounted, report.case("disk full", kind) as outcome:
            if not is_mounted:
                return
            subprocess.run(["cp", "-a", str(finished), str(disk / "run")], check=True)
            before = {path: path.read_bytes() for path in (disk / "run").rglob("*") if path.is_file()}
            used = int(
                subprocess.run(
                    ["df", "-k", "--output=used", str(disk)], capture_output=True, text=True, check=True
                ).stdout.split()[-1]
            )
            make_room(disk, used + 4)
            command = [sys.executable, "-m", "vlrun", *arguments]
            done = ended(world.start(command))
            changed = [path.name for path, content in before.items() if path.read_bytes() != content]
            if changed or not done.is_plain or (done.status and not _names_the_need(done)):
                outcome(LOST, f"status {done.status}; changed: {changed}; {done.last_line()}")
                continue
            make_room(disk, 8 * size + 20_000)
            again = ended(world.start(command))
            outcome(FOUND if again.status == 0 else LOST, done.last_line() if again.status == 0 else again.last_line())


def _names_the_need(done: Ended) -> bool:
    return done.status > 0 and ("the disk is full" in done.output or "No space left" in done.output)
