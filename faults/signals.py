"""Stop signals from the start-up to the report: one status each time, and a resume that ends as the whole run does."""

from __future__ import annotations

import random
import signal
import time

from faults.kills import check_resume
from faults.report import LOST, SAME, Report
from faults.world import Facts, World, differences, ended, facts

ONCE = {"SIGTERM": (signal.SIGTERM,), "SIGUSR1": (signal.SIGUSR1,), "SIGINT": (signal.SIGINT,)}
KINDS = {**ONCE, "SIGINT twice": (signal.SIGINT, signal.SIGINT)}
STOPPED, INTERRUPTED = 75, 130
BEGUN_SECONDS = 0.7
"""Before that a process is still Python's, which ends by the signal."""


def stops(
    world: World, report: Report, whole: Facts, seconds: float, count: int, seed: int, processes: int = 1
) -> None:
    """``count`` signals of each kind, at moments spread over a run."""
    rng = random.Random(seed)
    options = () if processes == 1 else ("--nproc", str(processes))
    for number in range(count):
        for kind, signals in KINDS.items():
            case = f"signal{number}-{processes}-{kind.replace(' ', '-')}"
            moment = BEGUN_SECONDS + (number + rng.random()) / count * seconds
            with report.case(f"signals, {processes} process{'es' if processes > 1 else ''}", kind) as outcome:
                process = world.start(world.command(case, *options))
                time.sleep(moment)
                for each in signals:
                    process.send_signal(each)
                    time.sleep(0.3)
                done = ended(process)
                allowed = {0, STOPPED} | ({INTERRUPTED} if signal.SIGINT in signals else set())
                if done.status not in allowed or not done.is_plain:
                    outcome(LOST, f"after {moment:.1f} s: status {done.status}; {done.last_line()}")
                elif done.status == 0:
                    wrong = differences(whole, facts(world.folder(case)))
                    outcome(LOST if wrong else SAME, ", ".join(wrong))
                else:
                    check_resume(world, case, whole, done, outcome, *options)
            world.forget(case)
