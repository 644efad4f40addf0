"""Which task each step trains when several share a backbone: a pure function of the seed and of past evaluations.

A joint epoch is a fixed number of steps of each task in an order that derives from (seed, epoch). Every task counts its
own steps and epochs, so what it trains on does not depend on the tasks that train in between.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlrun.config.train import SamplingConfig, StopAndGoConfig
from vlrun.seeds import derive_seed


@dataclass(frozen=True)
class PlannedStep:
    """One step of a joint epoch.

    Attributes:
        position: number among all steps of the run, from 0; the learning rate is a function of it.
        task_index: which task it trains.
        epoch, step: counted by the task itself, both from 0: step ``step`` of its epoch ``epoch``.
    """

    position: int
    task_index: int
    epoch: int
    step: int


@dataclass(frozen=True)
class TaskMix:
    """How the steps of a joint epoch are shared out.

    Attributes:
        own_steps: steps of each task in an epoch of its own.
        counts: steps of each task in a joint epoch.
    """

    own_steps: tuple[int, ...]
    counts: tuple[int, ...]
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of all tasks in a joint epoch."""
        return sum(self.counts)

    def order(self, epoch: int) -> Sequence[int]:
        """The task of every step of a joint epoch."""
        return _order(self.counts, self.seed, epoch)

    def steps(self, epoch: int, active: Sequence[Sequence[bool]]) -> list[PlannedStep]:
        """The steps of a joint epoch, those of paused tasks left out.

        Args:
            active: for this epoch and each before it, which tasks are not paused. A paused task keeps its place
                and later continues where it stopped.
        """
        done = [sum(flags[task] for flags in active[:epoch]) * count for task, count in enumerate(self.counts)]
        planned = []
        for offset, task in enumerate(self.order(epoch)):
            if active[epoch][task]:
                own_epoch, own_step = divmod(done[task], self.own_steps[task])
                planned.append(PlannedStep(epoch * self.steps_per_epoch + offset, task, own_epoch, own_step))
                done[task] += 1
        return planned


def build_mix(own_steps: Sequence[int], weights: Sequence[float], config: SamplingConfig, seed: int) -> TaskMix:
    """The mix that ``config`` describes for tasks with these numbers of steps in an epoch.

    A joint epoch has as many steps as all tasks have together. ``proportional`` gives each its own number: one epoch of
    every task. ``temperature`` T shares by size to the power 1/T, ``weights`` by the tasks' sampling weights.
    """
    if config.name == "proportional":
        return TaskMix(tuple(own_steps), tuple(own_steps), seed)
    shares = {
        "temperature": [size ** (1 / config.temperature) for size in own_steps],
        "weights": list(weights),
    }[config.name]
    counts = _apportioned(sum(own_steps), shares)
    return TaskMix(tuple(own_steps), counts, seed)


def is_active(merits: Sequence[float], config: StopAndGoConfig | None) -> bool:
    """Whether a task trains after these validation scores (larger is better), the oldest first.

    It pauses when ``patience`` evaluations in a row gained less than ``min_gain`` on the best score before, and resumes
    when its score has fallen ``fall_back`` below its best. The idea is that of Lu et al. 2020 (12-in-1, dynamic
    stop-and-go), the rule is not: there a stopped task trains every fourth step, patience is 1, and the thresholds are
    relative, .001 and .005.
    """
    if config is None:
        return True
    active, best, without_gain = True, float("-inf"), 0
    for merit in merits:
        gained = merit > best + config.min_gain
        without_gain = 0 if gained else without_gain + 1
        if active and without_gain >= config.patience:
            active = False
        elif not active and merit < best - config.fall_back:
            active, without_gain = True, 0
        best = max(best, merit)
    return active


def _apportioned(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in proportion to ``shares`` that sum to ``total``; at least 1 where the share is not 0."""
    scale = total / sum(shares)
    exact = [share * scale for share in shares]
    counts = [max(int(value), int(value > 0)) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_rest[: max(0, total - sum(counts))]:
        counts[index] += 1
    return tuple(counts)


@lru_cache(maxsize=4)
def _order(counts: tuple[int, ...], seed: int, epoch: int) -> list[int]:
    order = [task for task, count in enumerate(counts) for _ in range(count)]
    random.Random(derive_seed(seed, "tasks", epoch)).shuffle(order)  # noqa: S311 - addressed, not secret
    return order
