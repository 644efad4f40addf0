"""Writers on a disk that fills up: a small tmpfs, where this user may mount one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from faults.kills import check_resume
from faults.report import FOUND, LOST, Report
from faults.world import Ended, Facts, World, ended

ROOMS = [4 << power for power in range(14)]
"""Kilobytes that a command finds free."""


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
    """Commands with little room, then with twice as much until it is enough, so that every writer meets its end.

    What was there stays, the message says what is missing, and once there is room the command works.
    """
    disk = world.root / "small"
    sources = store.parents[1] / "sources"  # what the demo's store and annotations are built of
    captions = next(sources.glob("flickr30k-*"))
    commands = {
        "predictions, submission, matrix": ["predict", str(disk / "run")],
        "a score matrix": ["evaluate", str(disk / "run"), "--task", "retrieval", "--split", "val"],
        "export": ["weights", "export", str(disk / "run"), str(disk / "exported.safetensors")],
        "a store": [
            "features",
            "build",
            "--from",
            "lxmert-tsv",
            str(sources / "flickr-features"),
            str(disk / "copied"),
        ],
        "annotations": ["data", "build", "flickr30k", "--from", "karpathy", str(captions), str(disk / "annotations")],
        "negatives": ["mine-negatives", str(disk / "run"), "--task", "retrieval", "--split", "train"],
        "the report": ["report", "--html", str(disk / "run")],
    }
    size = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file()) // 1024
    for kind, arguments in commands.items():
        for room in ROOMS:
            with small_disk(disk, 4 * size) as is_mounted, report.case("disk full", kind) as outcome:
                if not is_mounted:
                    return
                subprocess.run(["cp", "-a", str(finished), str(disk / "run")], check=True)
                if kind == "a score matrix":
                    for file in (disk / "run" / "scores").glob("retrieval_val.*"):
                        file.unlink()  # else nothing is left to score
                done, lost = _with_little_room(world, disk, arguments, room, 8 * size + 20_000)
                if lost or (done.status == 0 and room == ROOMS[0]):
                    outcome(LOST, lost or f"{room} KB were enough: this tests nothing")
                elif done.status:
                    outcome(FOUND, f"{room} KB: {done.last_line()}")
            if done.status == 0:
                break


def _with_little_room(
    world: World, disk: Path, arguments: Sequence[str], room: int, enough: int
) -> tuple[Ended, str | None]:
    """Runs a command with ``room`` KB, and again with ``enough``; also returns what went wrong."""
    before = {path: path.read_bytes() for path in (disk / "run").rglob("*") if path.is_file()}
    shown = ["df", "-k", "--output=used", str(disk)]
    used = int(subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()[-1])
    make_room(disk, used + room)
    command = [sys.executable, "-m", "vlrun", *arguments]
    done = ended(world.start(command))
    if done.status == 0:
        return done, None
    gone = [path.name for path, content in before.items() if not path.exists() or path.read_bytes() != content]
    if gone or not done.is_plain or not _names_the_need(done):
        return done, f"{room} KB: status {done.status}; changed: {gone}; {done.last_line()}"
    make_room(disk, enough)
    again = ended(world.start(command))
    return done, None if again.status == 0 and again.is_plain else f"{room} KB, then enough: {again.last_line()}"


def _names_the_need(done: Ended) -> bool:
    """Whether it says of a file that there is no room, and how much there is."""
    return (
        done.status > 0 and re.search(r"/\S+.*(No space left|the disk is full).* MB are free", done.output) is not None
    )
