"""What step reports say about speed: training alone counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_world as toy
from toy_runs import experiment, lines

from vlrun.engine import step_window, training
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

_LONG = 1000.0


class Clock:
    """Goes on by a millisecond whenever somebody looks."""

    seconds = 0.0

    def perf_counter(self) -> float:
        self.seconds += 0.001
        return self.seconds


def test_the_time_of_evaluations_and_of_mining_is_not_that_of_steps(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    evaluate_split = training.evaluate_split

    def slow_evaluation(*arguments: Any, **options: Any) -> Any:
        clock.seconds += _LONG
        return evaluate_split(*arguments, **options)

    def slow_start(*_: Any) -> None:
        clock.seconds += _LONG

    monkeypatch.setattr(step_window, "time", clock)
    monkeypatch.setattr(training, "evaluate_split", slow_evaluation)
    monkeypatch.setattr(toy.ToyTask, "start_epoch", slow_start)
    result = run_experiment(experiment(world, plugins, "train.log_every=2"), plugins=plugins)
    assert clock.seconds > 6 * _LONG  # three epochs were started and evaluated
    assert min(row["examples_per_second"] for row in lines(result, "step")) > 6 / _LONG * 100
