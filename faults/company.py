"""Two processes where there is work for one, readers of what is being written, and surroundings that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.report import FOUND, LOST, SAME, Report
from faults.world import Ended, Facts, World, differences, ended, facts


def company(world: World, report: Report, whole: Facts) -> None:
    """All of them, each once."""
    _two_in_one_folder(world, report, whole)
    _two_builders(world, report)
    _reports_meanwhile(world, report, whole)
    _killed_worker(world, report)
    _clock(world, report, whole)
    _read_only(world, report)


def _started(world: World, case: str) -> None:
    """Waits until a run has its first checkpoint."""
    deadline = time.monotonic() + 300
    while not (world.folder(case) / "checkpoints" / "last").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _two_in_one_folder(world: World, report: Report, whole: Facts) -> None:
    case = "two"
    with report.case("company", "--resume of a run that goes on") as outcome:
        process = world.start(world.command(case))
        _started(world, case)
        second = world.run(case, "--resume")
        first = ended(process)
        wrong = differences(whole, facts(world.folder(case)))
        if first.status or wrong:
            outcome(LOST, f"the first: status {first.status}; {', '.join(wrong)}")
        elif second.status == 5 and "is at work in this run folder" in second.output:
            outcome(FOUND, second.last_line())
        else:
            outcome(SAME if second.status == 0 and second.is_plain else LOST, second.last_line())
    world.forget(case)


def _two_builders(world: World, report: Report) -> None:
    out, sources = world.root / "built.lmdb", sorted(map(str, world.root.rglob("sources/flickr-features/*.tsv")))
    command = [sys.executable, "-m", "vlrun", "features", "build", "--from", "lxmert-tsv", *sources, str(out)]
    with report.case("company", "two builders of one store") as outcome:
        both = [world.start(command) for _ in range(2)]
        done = [ended(process) for process in both]
        checked = ended(world.start([sys.executable, "-m", "vlrun", "features", "verify", str(out)]))
        if 0 in {each.status for each in done} and all(each.is_plain for each in done) and checked.status == 0:
            outcome(
                FOUND,
                max(each.last_line() for each in done if each.status) if any(each.status for each in done) else "",
            )
        else:
            outcome(LOST, f"{[each.status for each in done]}; {done[0].last_line()}; {checked.last_line()}")
    shutil.rmtree(out, ignore_errors=True)


def _reports_meanwhile(world: World, report: Report, whole: Facts) -> None:
    case = "watched"
    with report.case("company", "reports while a run writes") as outcome:
        process = world.start(world.command(case))
        said: list[Ended] = []
        while process.poll() is None:
            if (world.folder(case) / "status.json").exists():
                command = [sys.executable, "-m", "vlrun", "report", "--html", "--json", str(world.folder(case))]
                said.append(ended(world.start(command)))
            time.sleep(0.1)
        done = ended(process)
        bad = [each for each in said if each.status or not _is_json(each)]
        wrong = differences(whole, facts(world.folder(case)))
        if done.status or bad or wrong or not said:
            outcome(LOST, f"{len(bad)} of {len(said)} reports; {bad[0].last_line() if bad else ''}; {', '.join(wrong)}")
        else:
            outcome(SAME, f"{len(said)} reports")
    world.forget(case)


def _is_json(done: Ended) -> bool:
    lines = [line for line in done.output.splitlines() if not line.startswith("wrote ")]
    try:
        json.loads("\n".join(lines))
    except ValueError:
        return False
    return True


def _killed_worker(world: World, report: Report) -> None:
    case = "worker"
    with report.case("company", "a loader worker killed") as outcome:
        process = world.start(world.command(case, "train.workers=1", "train.epochs=200", "train.checkpoint_every=1"))
        _started(world, case)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [
            int(child) for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        done = ended(process, timeout=120)
        is_named = done.status == 9 and done.is_plain and "a loader worker was killed" in done.output
        outcome(FOUND if workers and is_named else LOST, f"status {done.status}; {done.last_line()}")
    world.forget(case)


def _clock(world: World, report: Report, whole: Facts) -> None:
    """When a run is resumed the clock has gone back: its files and its name are of next year."""
    case = "clock"
    with report.case("company", "the clock jumps back") as outcome:
        process = world.start(world.command(case))
        _started(world, case)
        process.send_signal(signal.SIGTERM)
        ended(process)
        future = time.time() + 365 * 86_400
        for path in world.folder(case).rglob("*"):
            os.utime(path, (future, future), follow_symlinks=False)
        resumed = world.run(case, "--resume")
        wrong = differences(whole, facts(world.folder(case)))
        is_good = resumed.status == 0 and not wrong
        outcome(SAME if is_good else LOST, f"{resumed.last_line()} {', '.join(wrong)}")
    world.forget(case)


def _read_only(world: World, report: Report) -> None:
    """The run folder becomes one that nobody may write; root may, so it is mounted read-only."""
    case = "readonly"
    folder = world.root / "runs" / case
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return
    try:
        with report.case("company", "read-only runs folder") as outcome:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            done = world.run(case)
            is_said = done.status in (3, 5) and done.is_plain and "Read-only file system" in done.output
            outcome(FOUND if is_said else LOST, f"status {done.status}; {done.last_line()}")
        with report.case("company", "run folder becomes read-only") as outcome:
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            process = world.start(world.command(case, "train.epochs=200"))
            _started(world, case)
            remount = subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True, check=False)
            if remount.returncode:  # files are open for writing
                process.kill()
                ended(process)
                return
            done = ended(process)
            is_said = done.status > 0 and done.is_plain and "Read-only" in done.output
            outcome(FOUND if is_said else LOST, f"status {done.status}; {done.last_line()}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
