"""``runner run --seeds``: the same with several seeds, one run after the other, and the means of the scores."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vlrun.errors import UsageError
from vlrun.foreign.printing import say

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment

Stages = Sequence[argparse.Namespace]


def run_seeds(
    stages: Stages,
    load: Callable[[argparse.Namespace], Experiment],
    run_in_order: Callable[[Stages], int],
) -> int:
    """Runs the stages in order with each seed, then shows means, deviations and single values.

    Args:
        stages: arguments of each experiment.
        load: the experiment of a stage.
        run_in_order: runs stages, and returns their exit status.

    Raises:
        UsageError: the seeds are neither a number of them nor a list, or one is repeated.
    """
    if stages[0].print_config:
        return run_in_order(stages)
    seeds = parse_seeds(stages[0].seeds, load(stages[0]).seed)
    for seed in seeds:
        if status := run_in_order([_with_seed(stage, seed, load) for stage in stages]):
            return status
    _show([load(stage) for stage in stages], seeds)
    return 0


def parse_seeds(text: str, first: int) -> list[int]:
    """``3``: three seeds from ``first`` on; ``888,1,2``: these.

    Raises:
        UsageError: it is neither, or a seed is repeated.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    seeds = list(range(first, first + numbers[0])) if len(numbers) == 1 and numbers[0] < 1_000 else numbers
    if len(seeds) < 2 or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds {text}: give how many seeds, two at least, or different seeds such as 888,1,2")
    return seeds


def _with_seed(
    stage: argparse.Namespace, seed: int, load: Callable[[argparse.Namespace], Experiment]
) -> argparse.Namespace:
    """The arguments that run a stage with one seed, or continue its newest run with it."""
    override = f"seed={seed}"  # the last one counts, so it comes after any seed among the overrides
    words = [*stage.command, override]
    changes = {"overrides": [*stage.overrides, override], "seeds": None, "label": f"{stage.experiment} {override}"}
    seeded = argparse.Namespace(**{**vars(stage), **changes})
    dropped = set[str]()
    if stage.resume:
        from vlrun.runs.stages import seeded_run

        folder = seeded_run(load(seeded), seed)
        if folder is None:
            seeded.resume, dropped = False, {"--resume"}
        else:
            seeded.experiment = words[words.index(stage.experiment)] = str(folder.path)
            seeded.demo, seeded.demo_pictures, dropped = False, False, {"--demo", "--demo-pictures"}
    seeded.command = [word for word in _without_seeds(words) if word not in dropped]
    return seeded


def _without_seeds(words: Sequence[str]) -> list[str]:
    kept, rest = list[str](), iter(words)
    for word in rest:
        if word == "--seeds":
            next(rest, None)
        elif not word.startswith("--seeds="):
            kept.append(word)
    return kept


def _show(experiments: Sequence[Experiment], seeds: Sequence[int]) -> None:
    from vlrun.reporting.repeats import repeat_table, repeated_scores
    from vlrun.reporting.run_record import read_run
    from vlrun.reporting.tables import print_table
    from vlrun.reporting.wording import DEMO_NOTICE
    from vlrun.runs.stages import seeded_run

    found = [seeded_run(experiment, seed) for experiment in experiments for seed in seeds]
    folders = [folder.path for folder in found if folder is not None]
    if scores := repeated_scores([read_run(folder) for folder in folders]):  # none without a split to evaluate
        say("")
        print_table(repeat_table(scores))
    if any(experiment.demo for experiment in experiments):
        say("", DEMO_NOTICE)
