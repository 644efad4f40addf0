"""Measuring an experiment: what does not depend on the batch once, the step for each batch size and precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from vlrun.config.experiment import Experiment
from vlrun.engine.assembly import assemble
from vlrun.engine.evaluation import TaskView
from vlrun.engine.ranks import Ranks
from vlrun.engine.run import Run
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.stopping import StopRequest
from vlrun.errors import UsageError
from vlrun.interfaces.measurement import Measurement
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.bench import PARTS
from vlrun.runs.bench.baseline import load_baselines
from vlrun.runs.bench.clock import by_turns
from vlrun.runs.bench.features import batch_rows, feature_rows
from vlrun.runs.bench.record import Case, Record, experiment_facts, machine_facts
from vlrun.runs.bench.startup import startup_rows
from vlrun.runs.bench.steps import step_rows

Load = Callable[[Sequence[str]], Experiment]
"""The experiment with further overrides."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        steps: how many steps of each kind, and rounds of other ways.
        batches, precisions: for each pair of them the step is measured; empty: as in the experiment.
        against: a file with baselines, or a folder that has one for each backbone.
        trace: folder for a trace of the first case.
    """

    steps: int = 10
    batches: Sequence[int] = ()
    precisions: Sequence[str] = ()
    parts: Sequence[str] = PARTS
    against: Path | None = None
    trace: Path | None = None


def measure(load: Load, options: BenchOptions, plugins: Plugins, ranks: Ranks, reporters: Reporters) -> Record:
    """Measures an experiment; called on all processes of a launched job, of which the main one gets all figures.

    Raises:
        UsageError: there is nothing to measure, or no baseline.
        RunnerError: what a run of the experiment would raise.
    """
    experiment = load([])
    record = Record(experiment_facts(experiment, 0, ranks.world_size, 0), machine_facts(ranks.device))
    if "start-up" in options.parts:
        rows = ranks.from_main(lambda: list(startup_rows(_progress(reporters, "start-up"))))
        record.cases.append(Case(rows))
    cases = list(product(options.precisions or [""], options.batches or [0]))
    told: set[str] = set()  # precisions in which the task has been measured, which knows no batch size
    for number, (precision, batch) in enumerate(cases):
        experiment = load(_overrides(experiment, batch, precision))
        with _assembled(experiment, ranks, plugins) as run:
            if not number:
                parameters = sum(parameter.numel() for parameter in run.model.parameters())
                record.experiment = experiment_facts(experiment, parameters, ranks.world_size, run.workers)
                if "features" in options.parts:
                    record.cases.append(Case(ranks.from_main(partial(_features, run, options.steps, reporters))))
            if "task" in options.parts and precision not in told:
                told.add(precision)
                record.cases.append(Case(_task_rows(run, options.steps, reporters), 0, run.experiment.train.precision))
            if "step" in options.parts and experiment.train.epochs:
                rows = _step_rows(run, plugins, options, reporters, options.trace if not number else None)
                record.cases.append(Case(rows, run.tasks[0].plan.batch_size, run.experiment.train.precision))
    if not any(case.rows for case in record.cases):
        raise UsageError(
            f"--only {' '.join(options.parts)}: nothing to measure: the task has no evaluation of its own, "
            "or train.epochs is 0"
        )
    return record


def _features(run: Run, rounds: int, reporters: Reporters) -> list[Measurement]:
    reporters.note("features: the same images in each format")
    task_run = run.tasks[0]
    if task_run.train is not None:
        task_run.task.start_training(task_run.train.dataset, run.experiment.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(feature_rows(task_run, Path(folder), run.device, rounds))
    size = task_run.config.batch_size or run.experiment.train.batch_size
    return [*rows, *batch_rows(task_run, size, rounds)]


def _task_rows(run: Run, rounds: int, reporters: Reporters) -> list[Measurement]:
    reporters.note(f"evaluation of the task's own, {run.experiment.train.precision}")
    timing = partial(by_turns, rounds=rounds, device=run.device)
    with run.ranks.together():
        return [
            row
            for task_run in run.tasks
            for row in task_run.task.measure(TaskView(run, task_run, StopRequest()), timing)
        ]


def _step_rows(
    run: Run, plugins: Plugins, options: BenchOptions, reporters: Reporters, trace: Path | None
) -> list[Measurement]:
    backbone, name = run.model.backbone, run.experiment.backbone.name
    against = options.against if run.ranks.world_size == 1 else None
    what = f"steps of {run.tasks[0].plan.batch_size}, {run.experiment.train.precision}"
    return list(
        step_rows(
            run,
            plugins,
            lambda: load_baselines(against, backbone, name) if against else [],
            options.steps,
            _progress(reporters, what),
            trace,
        )
    )


@contextmanager
def _assembled(experiment: Experiment, ranks: Ranks, plugins: Plugins) -> Iterator[Run]:
    """The run of an experiment, with a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        with ranks.together():
            run = assemble(experiment, ranks, RunFolder(Path(folder)), Reporters([]), plugins)
        yield run


def _overrides(experiment: Experiment, batch: int, precision: str) -> list[str]:
    overrides = [f"train.precision={precision}"] if precision else []
    if batch:
        overrides += [f"train.batch_size={batch}", "train.micro_batches=1"]
        overrides += [f"tasks.{number}.batch_size=null" for number in range(len(experiment.tasks))]
    return overrides


def _progress(reporters: Reporters, what: str) -> Callable[[int, int], None]:
    return lambda done, total: reporters.progress(what, done, total)
