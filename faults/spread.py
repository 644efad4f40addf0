"""The same numbers however a run was spread: processes, workers and how they start, passes, a second time, a resume."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from faults.report import LOST, SAME, Report
from faults.world import Facts, World, differences, ended, facts

EXACT = {
    "the same again": (),
    "1 worker": ("train.workers=1",),
    "2 workers": ("train.workers=2",),
}
PROCESSES = {"2 processes": ("--nproc", "2"), "3 processes": ("--nproc", "3")}
PASSES = {"2 passes": ("train.micro_batches=2",), "4 passes": ("train.micro_batches=4",)}
EVALUATED = ("predictions/", "submission/")


def spread(world: World, report: Report, whole: Facts) -> None:
    """Everything once. A training on other processes sums in another order, so it is compared by its predictions."""
    for kind, options in EXACT.items():
        _compare(world, report, "the same numbers", kind, whole, options)
    untrained = ("train.epochs=0",)
    alone = _facts(world, "untrained", untrained)
    for kind, options in PROCESSES.items():
        _compare(world, report, "the same predictions", kind, alone, (*untrained, *options), EVALUATED)
    once = _facts(world, "twice", ("train.micro_batches=2",))
    two = ("train.micro_batches=2", "--nproc", "2")
    _compare(world, report, "the same numbers", "2 passes on 1 and 2 processes", once, two)
    with report.case("the same numbers", "2 passes, resumed on 2 processes") as outcome:
        case = "moved"
        process = world.start(world.command(case, "train.micro_batches=2"))
        while not (world.folder(case) / "checkpoints" / "last").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        ended(process)
        resumed = world.run(case, *two, "--resume")
        wrong = differences(once, facts(world.folder(case)))
        outcome(LOST if resumed.status or wrong else SAME, ", ".join(wrong) or resumed.last_line())
        world.forget(case)


def _facts(world: World, case: str, options: Sequence[str]) -> Facts:
    done = world.run(case, *options)
    if done.status:
        raise RuntimeError(f"{case}: {done.last_line()}")
    found = facts(world.folder(case))
    world.forget(case)
    return found


def _compare(
    world: World,
    report: Report,
    group: str,
    kind: str,
    whole: Facts,
    options: Sequence[str],
    only: tuple[str, ...] = ("",),
) -> None:
    with report.case(group, kind) as outcome:
        found = _facts(world, kind.replace(" ", "-"), options)
        kept = [{name: value for name, value in each.items() if name.startswith(only)} for each in (whole, found)]
        wrong = differences(*kept)
        outcome(LOST if wrong or not kept[0] else SAME, ", ".join(wrong))
