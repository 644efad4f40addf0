"""python -m faults [--kills 50] [--flips 50] [--hours 2] [--only kills,signals] [--folder DIR] [--json FILE]

Injects faults into short runs on embedded data, resumes them, and compares every number with an undisturbed run.
Then it trains, mines and evaluates for hours in one process, and has a large store read by processes that are killed.
Prints a table and writes every case to a JSON file. Exit status 1 if a case was lost: another number, a traceback, a
signal in silence, a hang, or something left behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from faults.company import company
from faults.damage import damaged_reports, damaged_resumes
from faults.every_task import EXPERIMENTS, every_task
from faults.full_disk import full_commands, full_disks
from faults.kills import kills, log_of_writes, several_processes
from faults.large_store import large_store
from faults.loop import loop
from faults.report import LOST, SAME, Report, read_report
from faults.running import running
from faults.signals import stops
from faults.spread import spread
from faults.world import World, ended, facts, import_all

PARTS = ("kills", "damage", "signals", "disk", "company", "running", "spread", "tasks", "store", "loop")


def main() -> int:
    """Runs the chosen parts."""
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="kills of one process")
    parser.add_argument("--flips", type=int, default=50, help="flipped bits for each file")
    parser.add_argument(
        "--signals", type=int, default=6, help="moments for each kind of signal; half as many for two processes"
    )
    parser.add_argument("--disks", type=int, default=8, help="sizes of a disk that is too small")
    parser.add_argument("--hours", type=float, default=2, help="of training, mining and evaluation in one process")
    parser.add_argument("--images", type=int, default=100_000, help="of a large store")
    parser.add_argument("--minutes", type=float, default=10, help="in which four processes read it")
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS), help=f"of {','.join(EXPERIMENTS)}")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=1, help="of moments and places")
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, default=Path("faults/results/faults.json"), help="every case")
    parser.add_argument("--show", type=Path, help="the table of a JSON file that is there; injects nothing")
    options = parser.parse_args()
    if options.show:
        read_report(options.show).show()
        return 0
    if unknown := {*options.only.split(",")} - {*PARTS}:
        parser.error(f"--only {','.join(unknown)}: it is none of {', '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="vlrun-faults-") as temporary:
        return _inject(options, World((options.folder or Path(temporary)).absolute()))


def _inject(options: argparse.Namespace, world: World) -> int:
    report, parts = Report(options.json.absolute()), options.only.split(",")
    made = world.prepare()
    if made.status:
        print(made.output, file=sys.stderr)
        return 1
    import_all(world)
    done, writes, seconds = log_of_writes(world, "whole")
    if done.status:
        print(done.output, file=sys.stderr)
        return 1
    whole, finished = facts(world.folder("whole")), world.folder("whole")
    store = next(world.root.rglob("data.mdb")).parent
    print(f"the whole run takes {seconds:.1f} s and writes {len(writes)} times", flush=True)
    if "kills" in parts:
        kills(world, report, whole, writes, seconds, options.kills, options.seed)
    if "signals" in parts:
        stops(world, report, whole, seconds, options.signals, options.seed)
    if {"kills", "signals"} & {*parts}:
        _of_two_processes(world, report, options, parts)
    if "damage" in parts:
        stopped = _stopped(world)
        damaged_resumes(world, report, stopped, whole, options.flips, options.seed)
        damaged_reports(report, finished, options.flips, options.seed)
    if "disk" in parts:
        used = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file()) // 1024
        full_disks(world, report, whole, used, options.disks)
        full_commands(world, report, finished, store)
    if "company" in parts:
        company(world, report, whole)
    if "running" in parts:
        running(world, report, whole, next(path for path in world.root.rglob("flickr/data.mdb")))
    if "spread" in parts:
        spread(world, report, whole)
    if "tasks" in parts:
        every_task(world, report, options.experiments.split(","))
    if "store" in parts:
        large_store(world.root, report, options.images, options.minutes)
    if "loop" in parts:
        loop(world, report, whole, options.hours, report.path.with_suffix(".curve.jsonl"))
    report.show()
    return 0 if report.is_good else 1


def _of_two_processes(world: World, report: Report, options: argparse.Namespace, parts: Sequence[str]) -> None:
    started = time.monotonic()
    done = world.run("whole2", "--nproc", "2")
    seconds = time.monotonic() - started
    with report.case("two processes", "undisturbed") as outcome:
        outcome(LOST if done.status else SAME, done.last_line() if done.status else "")
    if done.status:
        return
    whole = facts(world.folder("whole2"))
    if "kills" in parts:
        several_processes(world, report, whole)
    if "signals" in parts:
        stops(world, report, whole, seconds, -(-options.signals // 2), options.seed, processes=2)


def _stopped(world: World) -> Path:
    """A run that was killed in its second epoch, so that it has everything to read back."""
    process = world.start(world.command("stopped"))
    while not (world.folder("stopped") / "evaluations.json").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    ended(process)
    return world.folder("stopped")


if __name__ == "__main__":
    raise SystemExit(main())
