"""kill -9 at random moments and in the middle of every kind of write; then a resume, compared with the whole run."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from faults.moments import watch
from faults.report import LOST, SAME, Report
from faults.world import Ended, Facts, World, differences, ended, facts, forked, left_behind

MOMENTS = {
    "a checkpoint": r"/checkpoints/\.step_|/checkpoints/step_",
    "links of checkpoints": r"/checkpoints/\.?(best|last)",
    "an evaluation": r"evaluations\.json|/scores/",
    "mining": r"/negatives/",
    "predictions": r"/predictions/|/examples/",
    "submission files": r"/submission/",
    "the report": r"report\.html",
    "the first records": r"(config\.yaml|command\.txt|environment\.json|data\.json|header\.json|owner\.json)",
    "status and metrics": r"(status\.json|metrics\.jsonl|log\.txt)",
}
AT_RANDOM = "a random moment"


def log_of_writes(world: World, case: str) -> tuple[Ended, list[str], float]:
    """Runs the whole run; also returns the paths that it writes, in order, and how long it took."""
    log, started = world.root / f"{case}.log", time.monotonic()
    whole = forked(world.arguments(case), lambda: watch(log=log))
    return whole, log.read_text().splitlines() if log.exists() else [], time.monotonic() - started


def kills(world: World, report: Report, whole: Facts, writes: list[str], seconds: float, count: int, seed: int) -> None:
    """``count`` kills of one process, each at another moment, each followed by a resume."""
    rng = random.Random(seed)
    for kind, pattern in MOMENTS.items():
        if not any(re.search(pattern, path) for path in writes):
            report.add("kill -9", kind, LOST, "the whole run writes nothing of the kind, so this is not tested")
    for number, (kind, pattern) in zip(range(count), _kinds(writes), strict=False):
        case = f"kill{number}"
        with report.case("kill -9", kind) as outcome:
            if pattern is None:
                killed = forked(world.arguments(case), seconds=rng.random() * seconds)
            else:
                moment = rng.randrange(sum(bool(re.search(pattern, path)) for path in writes))
                killed = forked(world.arguments(case), partial(watch, pattern, moment))
            check_resume(world, case, whole, killed, outcome)
        world.forget(case)


def check_resume(
    world: World, case: str, whole: Facts, killed: Ended, outcome: Callable[[str, str], None], *more: str
) -> None:
    """Resumes a run and compares it with the whole one."""
    if not killed.is_plain and killed.status >= 0:
        outcome(LOST, f"before the resume: {killed.last_line()}")
        return
    resumed = world.run(case, "--resume", *more) if more else forked(world.arguments(case, "--resume"))
    if resumed.status != 0 or not resumed.is_plain:
        outcome(LOST, f"the resume ended with {resumed.status}: {resumed.last_line()}")
        return
    folder = world.folder(case)
    others = [path for path in folder.parent.iterdir() if path.name not in (folder.name, "latest")]
    beside = [path.name for path in others if any(path.iterdir())]  # an empty one may be about to start, for a minute
    wrong = [*differences(whole, facts(folder)), *(f"left: {name}" for name in (*left_behind(folder), *beside))]
    outcome(LOST if wrong else SAME, ", ".join(wrong))


def _kinds(writes: list[str]) -> Iterator[tuple[str, str | None]]:
    """Moments in turn: each kind that the run has, and random ones."""
    known = [(kind, pattern) for kind, pattern in MOMENTS.items() if any(re.search(pattern, path) for path in writes)]
    while True:
        yield from known
        yield AT_RANDOM, None
        yield AT_RANDOM, None


def ranks_of(launcher: int) -> list[int]:
    """Processes that a launcher has started as ranks."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def several_processes(world: World, report: Report, whole: Facts) -> None:
    """Of two processes: one killed, one frozen, the launcher killed; ``whole`` is of two processes, too."""
    for kind in ("one rank killed", "one rank frozen", "the launcher killed", "one rank frozen, the launcher killed"):
        case = kind.replace(" ", "-").replace(",", "")
        with report.case("two processes", kind) as outcome:
            process = world.start(world.command(case, "--nproc", "2", "train.distributed_timeout=20"))
            while not (world.folder(case) / "checkpoints" / "last").exists() and process.poll() is None:
                time.sleep(0.2)
            ranks = ranks_of(process.pid)
            if "frozen" in kind:
                os.kill(ranks[-1], signal.SIGSTOP)
            if "rank killed" in kind:
                os.kill(ranks[-1], signal.SIGKILL)
            if "launcher" in kind:
                process.kill()
            started = time.monotonic()
            done = ended(process, timeout=120)
            seconds = time.monotonic() - started
            expected = -signal.SIGKILL if "launcher" in kind else 9
            time.sleep(1.0)
            alive = [rank for rank in ranks if _is_alive(rank)]
            if done.status != expected or alive or (done.status >= 0 and not done.is_plain):
                outcome(LOST, f"status {done.status} after {seconds:.0f} s, ranks alive: {alive}; {done.last_line()}")
            else:
                check_resume(world, case, whole, done, outcome, "--nproc", "2", "train.distributed_timeout=20")
        world.forget(case)


def _is_alive(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
