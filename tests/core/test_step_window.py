"""What step reports say about speed: training alone counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
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


class OnDevice:
    """Numbers of an accelerator that works one after another through what it is given."""

    is_cuda = True

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def to(self, device: str, *, non_blocking: bool) -> torch.Tensor:
        self.log.append(f"to {device}" if non_blocking else "wait for all")
        return torch.tensor([1.0, 2.0])


def test_looking_at_a_step_waits_for_its_own_copy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait for the copy")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    numbers: Any = OnDevice(log)
    arriving = step_window.Arriving(numbers)
    log.append("next step")
    assert arriving.values() == [1.0, 2.0]
    assert log == ["to cpu", "record", "next step", "wait for the copy"]
