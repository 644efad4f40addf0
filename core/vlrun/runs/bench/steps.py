"""One case of a benchmark: real training steps of an experiment with one batch size and precision."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlrun.engine.precision import HALF_PRECISIONS
from vlrun.engine.run import Run
from vlrun.engine.start_checks import check_first_batch
from vlrun.engine.steps import check_finite
from vlrun.engine.stopping import StopRequest
from vlrun.engine.trainer import build_trainer
from vlrun.interfaces.measurement import Baseline, Measurement
from vlrun.plugins.manager import Plugins
from vlrun.runs.bench.baseline import BaselineSteps
from vlrun.runs.bench.clock import Seconds, synchronise, timed
from vlrun.runs.bench.memory import MemoryWatch
from vlrun.runs.bench.products import data_sheet_rate, peak_rate, products_of, seconds_alone
from vlrun.runs.bench.timed import PARTS, TimedSteps

_TRACED = 8  # steps of a trace
_PERCENT = 100.0


@dataclass
class _Taken:
    """What the steps took, in seconds; one number for each of them.

    Attributes:
        parts: of steps whose parts were told apart; ``processor`` is the processor time of the same steps.
        in_a_row: of steps that followed each other as in training, with the part of it spent waiting for data.
        alone: of the parts of steps without a word to other processes.
    """

    parts: list[Mapping[str, float]] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    alone: list[Mapping[str, float]] = field(default_factory=list)
    in_a_row: float = 0.0
    waited: float = 0.0
    examples: list[int] = field(default_factory=list)
    operations: list[float] = field(default_factory=list)
    products: list[Seconds] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    baselines: dict[str, list[Seconds]] = field(default_factory=dict)


def step_rows(
    run: Run,
    plugins: Plugins,
    baselines: Callable[[], Sequence[Baseline]],
    num_steps: int,
    progress: Callable[[int, int], None],
    trace: Path | None = None,
) -> Iterator[Measurement]:
    """Trains a few steps and tells what they took; on all processes of a launched job.

    Steps in a row come first: how fast training is, how long it waits, what it holds. Then the parts of steps are told
    apart, by turns with steps of the baselines, with the products of the step alone and with large products.

    Args:
        baselines: makes them, with the weights of the backbone as they are by then.
        trace: folder for a trace of a few more steps.

    Raises:
        CheckpointError: a baseline computes something else.
    """
    started = time.perf_counter()
    trainer = build_trainer(run, StopRequest(), plugins)
    run.ranks.share_weights(run.model)
    check_first_batch(trainer)
    watch = MemoryWatch(run.device)
    plan = _Plan.of(run, num_steps, traced=trace is not None)
    steps = TimedSteps(trainer, plan.total)
    advance = _Advance(progress, plan.total)
    steps.take()
    synchronise(run.device)
    first = time.perf_counter() - started
    advance()
    for _ in range(plan.warm_up - 1):
        steps.take()
        advance()
    watch.look()
    taken = _Taken()
    if plan.in_a_row:
        _in_a_row(run, steps, plan.in_a_row, taken, advance)
        watch.look()
    yield from watch.rows()  # before there are other networks
    others = [BaselineSteps(run, baseline, plugins) for baseline in baselines()]
    differences = _check(run, steps, others)
    _by_turns(run, steps, num_steps, taken, others, advance)
    check_finite(trainer)
    if trace is not None:
        _traced(run, steps, trace)
    yield from _rows(run, taken, others, differences)
    yield Measurement("start-up", "from the assembled run to the end of the first step", 1000 * first, "ms")


@dataclass(frozen=True)
class _Plan:
    """How many steps of each kind are taken."""

    warm_up: int
    in_a_row: int
    total: int

    @classmethod
    def of(cls, run: Run, num_steps: int, traced: bool) -> _Plan:
        """Where nothing overlaps, in one process on the CPU, steps in a row would tell nothing of their own."""
        overlaps = run.device.type != "cpu" or run.workers > 0
        warm_up, in_a_row = (2, num_steps) if overlaps else (1, 0)
        by_turns = num_steps * (2 if run.ranks.world_size > 1 else 1)
        return cls(warm_up, in_a_row, warm_up + in_a_row + by_turns + (_TRACED if traced else 0))


class _Advance:
    """Shows how many steps are done."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _check(run: Run, steps: TimedSteps, others: Sequence[BaselineSteps]) -> dict[str, float]:
    step = steps.coming
    task_run = run.tasks[step.loaded.planned.task_index]
    return {other.name: other.check(task_run, steps.host_batches(step)) for other in others}


def _in_a_row(run: Run, steps: TimedSteps, count: int, taken: _Taken, advance: Callable[[], None]) -> None:
    synchronise(run.device)
    start, waited = time.perf_counter(), 0.0
    for _ in range(count):
        waited += steps.take().get("waiting", 0.0)
        advance()
    synchronise(run.device)
    taken.in_a_row = (time.perf_counter() - start) / count
    taken.waited = waited / count


def _by_turns(
    run: Run,
    steps: TimedSteps,
    count: int,
    taken: _Taken,
    others: Sequence[BaselineSteps],
    advance: Callable[[], None],
) -> None:
    dtype = HALF_PRECISIONS.get(run.experiment.train.precision, torch.float32)
    for number in range(count):
        step = steps.coming
        task_run = run.tasks[step.loaded.planned.task_index]
        batches = steps.host_batches(step)
        taken.examples.append(len(step.loaded.ids))
        products = products_of(run.model, task_run.name, task_run.task, batches)
        before = time.process_time()
        taken.parts.append(steps.take(apart=True))
        taken.processor.append(time.process_time() - before)
        advance()
        if products is not None:
            taken.operations.append(products.operations)
            taken.products.append(seconds_alone(products, run.device, dtype))
            taken.peaks.append(peak_rate(run.device, dtype))
        for other in others:
            prepared = other.prepared(task_run, batches)
            if not number:
                other.train(task_run, prepared, step)  # warms up
            taken.baselines.setdefault(other.name, []).append(
                timed(lambda: other.train(task_run, prepared, step), run.device, least=0.0)  # noqa: B023
            )
        if run.ranks.world_size > 1:
            taken.alone.append(steps.take(apart=True, alone=True))
            advance()


def _rows(
    run: Run, taken: _Taken, others: Sequence[BaselineSteps], differences: Mapping[str, float]
) -> Iterator[Measurement]:
    parts = _parts(taken)
    whole = sum(parts.values())
    in_a_row, waited = (taken.in_a_row, taken.waited) if taken.in_a_row else (whole, parts["waiting"])
    # on a GPU steps overlap; on the CPU those that took turns with the baselines are the fair ones
    step = whole if run.device.type == "cpu" else in_a_row
    examples = statistics.mean(taken.examples)
    medians = {other.name: _median(taken.baselines[other.name]).wall for other in others}
    ratios = {name: seconds / step for name, seconds in medians.items()}
    yield Measurement("step", "examples", examples * run.ranks.world_size / step, "examples/s", ratios)
    for other in others:
        note = f"baseline: {other.about}; outputs and losses differ by {differences[other.name]:.0e} at most"
        yield Measurement("step", other.name, examples / medians[other.name], "examples/s", note=note)
    yield Measurement("step", "whole", 1000 * whole, "ms", note="the sum of its parts")
    for name, seconds in parts.items():
        yield Measurement("step", name, 1000 * seconds, "ms", note=f"{seconds / whole:.1%} of the step")
    yield Measurement("step", "in a row", 1000 * in_a_row, "ms", note="as in training")
    note = f"of the step, with {run.workers} loader workers"
    yield Measurement("step", "waiting, in a row", _PERCENT * waited / in_a_row, "%", note=note)
    yield from _rates(run, taken, step)
    if run.device.type == "cpu":
        yield from _processor_time(taken, examples)
    yield from _whole_training(run, examples * run.ranks.world_size / step)


def _parts(taken: _Taken) -> dict[str, float]:
    """Seconds of each part in the step whose length is the median."""
    by_length = sorted(taken.parts, key=lambda step: sum(step.values()))
    parts = {name: by_length[len(by_length) // 2].get(name, 0.0) for name in PARTS}
    if taken.alone:  # what the backward pass takes more with other processes is the sending that it does not hide
        alone = statistics.median(step.get("backward", 0.0) for step in taken.alone)
        exposed = max(0.0, parts["backward"] - alone)
        parts["backward"] -= exposed
        parts["communication"] += exposed
    return parts


def _rates(run: Run, taken: _Taken, step: float) -> Iterator[Measurement]:
    if not taken.operations:
        return
    operations, products = statistics.mean(taken.operations), _median(taken.products).wall
    peak, rate = statistics.median(taken.peaks), operations / step
    yield Measurement("step", "operations", operations / 1e9, "GFLOP", note="products of forward and backward pass")
    yield Measurement("step", "rate", rate / 1e9, "GFLOP/s")
    yield Measurement("step", "large products", peak / 1e9, "GFLOP/s", note="the measured peak")
    yield Measurement("step", "of the measured peak", _PERCENT * rate / peak, "%")
    note = f"{1000 * products:.3g} ms for the products of a step, in their own shapes, with nothing between them"
    yield Measurement("step", "of the matmul-limited rate", _PERCENT * products / step, "%", note=note)
    if run.device.type == "cuda" and run.experiment.train.precision in HALF_PRECISIONS:
        yield from _utilisation(run, rate)


def _processor_time(taken: _Taken, examples: float) -> Iterator[Measurement]:
    """The ratios once more by processor time, which other work on the machine hardly changes."""
    step = statistics.median(taken.processor)
    ratios = {name: _median(seconds).processor / step for name, seconds in taken.baselines.items()}
    yield Measurement("processor time", "examples", examples / step, "examples/s", ratios)
    if taken.products:
        share = _PERCENT * _median(taken.products).processor / step
        yield Measurement("processor time", "of the matmul-limited rate", share, "%")


def _median(values: Sequence[Seconds]) -> Seconds:
    return Seconds(
        statistics.median(each.wall for each in values), statistics.median(each.processor for each in values)
    )


def _utilisation(run: Run, rate: float) -> Iterator[Measurement]:
    name = torch.cuda.get_device_name(run.device)
    sheet = data_sheet_rate(name)
    if sheet is not None:
        note = f"of {sheet / 1e12:.0f} TFLOP/s in bf16, by the data sheet of {name}"
        yield Measurement("step", "model FLOP utilisation", _PERCENT * rate / sheet, "%", note=note)


def _whole_training(run: Run, rate: float) -> Iterator[Measurement]:
    """How long the whole training of the experiment would take at this rate."""
    experiment = run.experiment
    published = experiment.published
    examples = published.training_examples if published is not None else None
    if examples is None and not experiment.demo:
        examples = sum(task_run.plan.num_examples for task_run in run.tasks)
    if examples is not None:
        hours = examples * experiment.train.epochs / rate / 3600
        note = f"{examples:,} examples, {experiment.train.epochs} epochs; without evaluation or mining"
        yield Measurement("step", "the whole training", hours, "h", note=note)


def _traced(run: Run, steps: TimedSteps, folder: Path) -> None:
    from vlrun.reporting.profiler import profile

    recorded: AbstractContextManager[Any] = profile(folder, run.device, _TRACED) if run.ranks.is_main else nullcontext()
    with recorded as profiler:
        for _ in range(_TRACED):
            steps.take()
            if profiler is not None:
                profiler.step()
