"""What a run looks at before its first step."""

from __future__ import annotations

from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment, ranks_run

from vlrun.data import first_batch
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.errors import ConfigError, DataError, RunnerError
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.again import evaluate_run, predict_run
from vlrun.runs.run import run_experiment
from vlrun.testing import run_ranks

Usage = namedtuple("Usage", "total used free")


def count_nothing_before(monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    """Lets the loss count items from this look on."""
    counts, looks = toy.ToyTask.loss_counts, [0]

    def patched(task: Any, targets: Any) -> Any:
        looks[0] += 1
        found = counts(task, targets)
        return found if looks[0] >= look else {name: torch.zeros(()) for name in found}

    monkeypatch.setattr(toy.ToyTask, "loss_counts", patched)


def shown_by_ranks(world: Path, plugins: Plugins, *overrides: str) -> list[bool]:
    """Whether each of two ranks leaves it to the other to show the error with which the run ends."""
    loaded = experiment(world, plugins, *overrides)

    def body(ranks: Ranks) -> bool | None:
        runs.join_ranks = lambda timeout, threads: nullcontext(ranks)
        try:
            run_experiment(loaded, plugins=plugins)
        except RunnerError as error:
            return error.is_shown_elsewhere
        return None

    return run_ranks(body, world)


def test_a_task_is_called_in_the_order_that_its_documentation_says(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("build_head", "check_splits", "start_training", "pairs", "collate", "mask", "start_epoch"):
        usual = getattr(toy.ToyTask, name)

        def noted(*arguments: Any, name: str = name, usual: Any = usual, **options: Any) -> Any:
            calls.append(name)
            return usual(*arguments, **options)

        monkeypatch.setattr(toy.ToyTask, name, noted)
    run_experiment(experiment(world, plugins, "train.epochs=2", "train.workers=0"), plugins=plugins)

    assert list(dict.fromkeys(calls))[:3] == ["build_head", "check_splits", "start_training"]
    first, second = (index for index, name in enumerate(calls) if name == "start_epoch")
    assert {"pairs", "collate", "mask"} <= {*calls[3:first]}, "a look at the first batch"
    assert {"pairs", "collate", "mask"} <= {*calls[first + 1 : second]}
    assert calls.count("start_training") == calls.count("build_head") == 1

    calls.clear()
    run_experiment(experiment(world, plugins, "train.epochs=0", "train.workers=0"), plugins=plugins)
    assert {"pairs", "collate", "mask"} <= {*calls}
    assert not {"start_training", "start_epoch"} & {*calls}


def test_training_that_teaches_nothing_is_refused(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_nothing_before(monkeypatch, 10**9)
    message = f"task 'match': there is nothing to learn: in none of the {toy.SIZES['train']} training examples"
    with pytest.raises(DataError, match=message):
        run_experiment(experiment(world, plugins), plugins=plugins)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2)
    assert str(caught.value).count(message) == 2
    assert shown_by_ranks(world, plugins) == [False, True]


def test_a_first_batch_that_teaches_nothing_is_no_reason(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_nothing_before(monkeypatch, 4)
    assert run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins).rows


def test_items_that_one_rank_cannot_count_end_all(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, looks = toy.ToyTask.loss_counts, [0]

    def broken(task: Any, targets: Any) -> Any:
        looks[0] += 1
        if looks[0] == 2 and torch.distributed.get_rank() == 1:  # the first look is for their number
            raise ValueError("no such item")
        return counts(task, targets)

    monkeypatch.setattr(toy.ToyTask, "loss_counts", broken)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1")
    assert "\nValueError: no such item" in str(caught.value)
    assert "FailedElsewhereError: another process failed: ValueError: no such item" in str(caught.value)


def test_training_batches_that_do_not_fit_into_shared_memory_are_refused_at_the_start(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("train.epochs=1", "train.batch_size=20", "train.evaluate_batch_size=1")
    monkeypatch.setattr(first_batch.shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    monkeypatch.setattr(runs, "check_evaluation_batches", lambda *_: None)
    with pytest.raises(ConfigError, match=r"train.workers: 1 workers hold .*Lower train.workers or train.batch_size"):
        run_experiment(experiment(world, plugins, *options, "train.workers=1"), plugins=plugins)
    assert run_experiment(experiment(world, plugins, *options), plugins=plugins).rows, "no worker, no need of it"


@pytest.mark.parametrize("epochs", [0, 1])
def test_evaluation_batches_that_do_not_fit_into_shared_memory_are_refused_at_the_start(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    options = ("train.workers=1", f"train.epochs={epochs}", "train.batch_size=2", "train.evaluate_batch_size=13")
    loaded = experiment(world, plugins, *options)
    needed: list[float] = []

    def noted(batch: Any, *_: Any, option: str = "train.batch_size") -> None:
        needed.append(first_batch.batch_bytes(batch))

    with monkeypatch.context() as patch:
        patch.setattr("vlrun.engine.start_checks.shared_memory_problem", noted)
        run_experiment(loaded, plugins=plugins)
    largest = first_batch.HELD_BY_A_WORKER * max(needed)
    monkeypatch.setattr(first_batch.shutil, "disk_usage", lambda _: Usage(largest, 1, largest - 1))
    with pytest.raises(ConfigError, match=r"Lower train.workers or train.evaluate_batch_size"):
        run_experiment(loaded, plugins=plugins)
    assert shown_by_ranks(world, plugins, *options) == [False, True]
    with monkeypatch.context() as patch:
        patch.setattr(first_batch.shutil, "disk_usage", lambda _: Usage(largest, 0, largest))
        folder = run_experiment(loaded, plugins=plugins).folder
    opened = OpenedRun(RunFolder(folder), experiment(world, plugins, *options, "train.epochs=0"), plugins)
    for verb in (evaluate_run, predict_run):
        with pytest.raises(ConfigError, match=r"Lower train.workers or train.evaluate_batch_size"):
            verb(opened, Ranks(0, 1, torch.device("cpu")), Reporters([]))
