"""Every task: the same predictions and scores of a set of prime length, whoever works on it and however it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from faults.report import LOST, SAME, Report
from faults.spread import EVALUATED
from faults.world import HERE, Facts, World, differences, facts

EXPERIMENTS = (
    "rosita_refcoco+",
    "rosita_vqa",
    "lxmert_s_gqa",
    "lxmert_nlvr2",
    "rosita_itr_flickr",
    "lxmert_s_ir",
    "lxmert_s_tr",
    "rosita_zero_shot_flickr",
    "rosita_pretrain",
    "lxmert_pretrain",
)
"""One of each task, by turns with another backbone; retrieval and pre-training in each of their ways."""

EXAMPLES = 23
PRETRAINING_SECONDS = 3600
WAYS = {
    "the same again": (),
    "2 processes": ("--nproc", "2"),
    "3 processes": ("--nproc", "3"),
    "1 worker": ("train.workers=1",),
    "2 workers": ("train.workers=2",),
    "2 workers that are spawned": ("train.workers=2",),
    "2 processes with a worker": ("--nproc", "2", "train.workers=1"),
}


def every_task(world: World, report: Report, names: Sequence[str] = EXPERIMENTS) -> None:
    """Evaluates a network of each experiment, untrained if it may be, on the demo data, in every way."""
    for name in names:
        experiment = HERE.parent / "experiments" / f"{name}.yaml"
        try:
            alone = _evaluated(world, experiment, ())
        except RuntimeError as error:
            report.add("the same predictions", name, LOST, str(error))
            continue
        for way, options in WAYS.items():
            with report.case("the same predictions", f"{name}, {way}") as outcome:
                wrong = differences(alone, _evaluated(world, experiment, options, is_spawned="spawned" in way))
                outcome(LOST if wrong or len(alone) < 2 else SAME, ", ".join(wrong))


def _evaluated(world: World, experiment: Path, options: tuple[str, ...], *, is_spawned: bool = False) -> Facts:
    short = ["--demo", "train.epochs=0", f"tasks.0.dataset.limit={EXAMPLES}", "train.precision=fp32"]
    if "zero_shot" not in experiment.stem:  # which refuses a network that cannot match; its demo pre-trains one, once
        short.append("backbone.weights=null")
    paths = os.pathsep.join([str(HERE / "injected"), os.environ.get("PYTHONPATH", "")])
    changes = {"PYTHONPATH": paths, "VLRUN_FAULT": "spawn"} if is_spawned else None
    done = world.run("task", *short, *options, changes=changes, experiment=experiment, timeout=PRETRAINING_SECONDS)
    if done.status:
        raise RuntimeError(f"{experiment.stem}: {done.last_line()}")
    found = facts(world.folder("task"))
    world.forget("task")
    return {name: value for name, value in found.items() if name.startswith((*EVALUATED, "metrics"))}
