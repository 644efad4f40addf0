"""What steps of training and of an evaluation ask of the device and of the other ranks."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from toy_runs import experiment

from vlrun.engine import evaluation, steps, training
from vlrun.engine.device_copies import DeviceCopies
from vlrun.engine.ranks import Ranks
from vlrun.engine.step_window import Arriving
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.run import run_experiment
from vlrun.testing import run_ranks


class EnoughError(Exception):
    """Ends a run at its first checkpoint."""


def enough(*_: object) -> None:
    raise EnoughError


@pytest.mark.parametrize("options", [[], ["train.micro_batches=2"]], ids=["one pass", "two passes"])
def test_steps_read_no_value_and_stay_on_their_device(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Torch's device without memory stands in for a GPU: no value can be read there, and no other device fits."""
    read: list[torch.Tensor] = []

    def pretended(arriving: Arriving) -> list[float]:
        read.append(arriving._numbers)
        return [0.0] * len(arriving._numbers)

    monkeypatch.setattr(runs, "join_ranks", lambda *_: nullcontext(Ranks(0, 1, torch.device("meta"))))
    monkeypatch.setattr(Arriving, "values", pretended)  # the one thing that is read, when it has arrived
    monkeypatch.setattr(training, "save_checkpoint", enough)
    with pytest.raises(EnoughError):
        run_experiment(experiment(world, plugins, *options), plugins=plugins)
    assert read
    assert all(numbers.is_meta for numbers in read)


def test_a_step_reads_the_numbers_of_the_step_before(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    values, backward = Arriving.values, steps._backward

    def reading(arriving: Arriving) -> list[float]:
        events.append("read")
        return values(arriving)

    def computing(*arguments: Any) -> Any:
        events.append("compute")
        return backward(*arguments)

    monkeypatch.setattr(Arriving, "values", reading)
    monkeypatch.setattr(steps, "_backward", computing)
    monkeypatch.setattr(training, "save_checkpoint", enough)
    with pytest.raises(EnoughError):
        run_experiment(experiment(world, plugins, "train.log_every=100"), plugins=plugins)
    assert events[:2] == ["compute", "compute"], "the device has work before anything of it is read"


def test_an_evaluation_reads_a_batch_when_the_next_one_is_on_its_way(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noted(name: str, function: Any) -> Any:
        return lambda *arguments: (events.append(name), function(*arguments))[1]

    monkeypatch.setattr(DeviceCopies, "start_encoding", noted("copy", DeviceCopies.start_encoding))
    monkeypatch.setattr(evaluation, "on_cpu", noted("read", evaluation.on_cpu))
    run_experiment(experiment(world, plugins, "train.epochs=0", "train.evaluate_batch_size=4"), plugins=plugins)
    assert events[:4] == ["copy", "copy", "read", "copy"]
    assert events.count("copy") == events.count("read")
    assert events[-1] == "read"


def test_ranks_exchange_one_message_a_step(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = experiment(world, plugins, "train.log_every=100", "train.epochs=1", runs_root="runs2")

    def body(ranks: Ranks) -> list[int]:
        messages: list[int] = []
        per_step: list[int] = []
        all_reduce, gather, train_step = dist.all_reduce, dist.all_gather_object, training.train_step

        def counted(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            if options.get("group") is ranks.control:
                messages.append(tensor.numel())
            return all_reduce(tensor, *arguments, **options)

        def gathered(*arguments: Any, **options: Any) -> Any:
            messages.append(-1)
            return gather(*arguments, **options)

        def watched(*arguments: Any) -> Any:
            before = len(messages)
            done = train_step(*arguments)
            per_step.append(len(messages) - before)
            return done

        dist.all_reduce, dist.all_gather_object, training.train_step = counted, gathered, watched
        runs.join_ranks = lambda *_: nullcontext(ranks)
        run_experiment(loaded, plugins=plugins)
        return per_step

    first, second = run_ranks(body, world)
    assert first == second == [1] * len(first)
    assert len(first) > 2
