"""What one process of a run does alone leaves no other waiting."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import experiment, ranks_run

from vlrun.data.loading import BatchLoader, JointBatchMaker
from vlrun.engine import evaluation, steps
from vlrun.engine.checkpoints import Checkpoint, Checkpoints
from vlrun.engine.evaluation_history import EvaluationHistory
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import RunFolder
from vlrun.errors import CheckpointError, DataError, DistributedError
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.run import run_experiment


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (RunFolder, "write_predictions"),
        (RunFolder, "write_submission"),
        (EvaluationHistory, "write"),
        (Checkpoints, "mark_best"),
        (Checkpoints, "prune"),
        (runs, "write_records"),
        (runs, "_locations"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_main_process_fails_to_write_ends_all(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("nothing can be written")

    monkeypatch.setattr(owner, method, fail)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1")
    assert "ValueError: nothing can be written" in str(caught.value)
    assert "FailedElsewhereError: another process failed: ValueError: nothing can be written" in str(caught.value)


def test_memory_that_is_short_on_one_process_is_explained_and_ends_all(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = steps._backward

    def short(*arguments: Any) -> Any:
        if torch.distributed.get_rank() == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return backward(*arguments)

    monkeypatch.setattr(steps, "_backward", short)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1")
    explained = "ConfigError: train.batch_size 6: a step does not fit into the memory of the GPU"
    assert str(caught.value).count(f"vlrun.errors.{explained}") == 2
    assert "DistributedError" not in str(caught.value)


def test_a_loss_that_is_no_number_on_one_process_ends_all(world: Path, plugins: Plugins) -> None:
    """Nobody leaves the step out alone, which would let the others wait."""
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "backbone.poison=17", "train.epochs=1")
    assert str(caught.value).count("vlrun.errors.NonFiniteLossError: step ") == 2
    assert "train-17" in str(caught.value)


def test_a_checkpoint_that_one_process_cannot_read_ends_all_with_the_reason(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Checkpoint.load_model

    def broken(*arguments: Any) -> None:
        if torch.distributed.get_rank() == 1:
            raise CheckpointError("no such file")
        load(*arguments)

    monkeypatch.setattr(Checkpoint, "load_model", broken)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1")
    assert str(caught.value).count("vlrun.errors.CheckpointError: no such file") == 2
    assert "does not answer" not in str(caught.value)


def test_a_training_batch_that_one_process_cannot_make_ends_all_with_the_reason(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = JointBatchMaker.__getitems__

    def broken(*arguments: Any) -> Any:
        return DataError("no such image") if torch.distributed.get_rank() == 1 else make(*arguments)

    monkeypatch.setattr(JointBatchMaker, "__getitems__", broken)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1")
    assert str(caught.value).count("vlrun.errors.DataError: no such image") == 2
    assert "does not answer" not in str(caught.value)


def test_an_evaluation_that_fails_on_one_process_ends_all_with_the_reason(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = evaluation.predict_batch

    def broken(*arguments: Any) -> Any:
        if torch.distributed.get_rank() == 1:
            raise DataError("no such image")
        return predict(*arguments)

    monkeypatch.setattr(evaluation, "predict_batch", broken)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1", "train.evaluate_batch_size=4")
    assert str(caught.value).count("vlrun.errors.DataError: no such image") == 2
    assert "does not answer" not in str(caught.value)


def test_a_trace_may_take_longer_to_write_than_the_others_wait(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []
    from_main = Ranks.from_main

    def watched(ranks: Ranks, compute: Any) -> Any:
        inside.append("waiting")
        try:
            return from_main(ranks, compute)
        finally:
            inside.pop()

    class Trace:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            closed.append(bool(inside))

    closed: list[bool] = []
    monkeypatch.setattr(Ranks, "from_main", watched)
    monkeypatch.setattr(runs, "_profiled", lambda *_: Trace())
    run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)
    assert closed == [True]


class Deadly:
    """Data whose second batch kills the worker that makes it."""

    def __getitems__(self, batch: list[int]) -> Any:
        if batch == [1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch


def test_a_killed_loader_worker_is_named_and_is_no_lost_rank() -> None:
    made = BatchLoader(Deadly(), workers=1).batches([[0], [1]])  # type: ignore[arg-type]
    with pytest.raises(DistributedError, match=r"^train\.workers: a loader worker was killed or hangs"):
        list(made)


class Own:
    """Data that say which worker makes them."""

    def __getitems__(self, batch: list[int]) -> Any:
        return os.getpid()


def test_a_loader_worker_that_is_killed_while_nobody_waits_for_it_is_named() -> None:
    made: Any = BatchLoader(Own(), workers=1).batches([[0]] * 100)  # type: ignore[arg-type]
    worker = next(made)
    killed = threading.Timer(0.2, os.kill, (worker, signal.SIGKILL))
    killed.start()
    with pytest.raises(DistributedError, match=r"^train\.workers: a loader worker was killed or hangs"):
        signal.pause()


def test_a_task_that_times_out_is_no_lost_rank(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the NCCL solver of this task timed out")

    monkeypatch.setattr(steps, "_backward", fail)
    with pytest.raises(RuntimeError, match="solver of this task timed out"):
        run_experiment(experiment(world, plugins), plugins=plugins)
