"""Two processes count, gather and sum as one would."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from vlrun.engine.ranks import Ranks, choose_device, lost_rank_explained, lost_ranks_explained
from vlrun.errors import DataError, DistributedError, RunnerError
from vlrun.testing import run_ranks


def test_all_ranks_get_the_weights_of_the_main_rank(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> dict[str, torch.Tensor]:
        torch.manual_seed(ranks.rank)
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        network[0].weight.data = network[0].weight.data.t().contiguous().t()  # not contiguous
        ranks.share_weights(network)
        return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    main, *others = run_ranks(body, tmp_path, 3)
    torch.manual_seed(0)
    assert torch.equal(main["0.weight"], nn.Linear(3, 2).weight)
    assert all(torch.equal(other[name], tensor) for other in others for name, tensor in main.items())


def test_ranks_with_different_networks_say_so(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> str:
        with pytest.raises(DistributedError) as caught:
            ranks.share_weights(nn.Linear(3, 2 + ranks.rank))
        return str(caught.value)

    assert all("disagree on the shape of the network" in message for message in run_ranks(body, tmp_path))


def test_a_rank_that_fails_inside_torch_leaves_its_error_to_the_others(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> None:
        with ranks.announcing():
            if ranks.rank == 1:
                raise DataError("too much memory")
            with lost_rank_explained():
                dist.all_reduce(torch.zeros(1))  # breaks off when rank 1 has left

    with pytest.raises(AssertionError) as caught:
        run_ranks(body, tmp_path)
    assert str(caught.value).count("vlrun.errors.DataError: too much memory") == 2


def test_a_rank_that_is_gone_without_a_word_is_a_lost_rank(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise ValueError("not announced")
        with ranks.announcing(), lost_rank_explained():
            dist.all_reduce(torch.zeros(1))

    with pytest.raises(AssertionError, match=r"LostRankError: another process is gone"):
        run_ranks(body, tmp_path)


def test_counts_claims_and_items_are_the_same_on_every_rank(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> tuple[list[float], bool, bool, list[str]]:
        counts = ranks.sum_counts([1.0, float(ranks.rank)])
        return counts, ranks.any(ranks.rank == 1), ranks.any(False), ranks.gather([f"from {ranks.rank}"] * ranks.rank)

    assert run_ranks(body, tmp_path, 3) == [([3.0, 3.0], True, False, ["from 1", "from 2", "from 2"])] * 3


def test_an_error_of_the_main_rank_reaches_all_and_is_shown_once(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("no features")

    def body(ranks: Ranks) -> tuple[str, bool]:
        try:
            ranks.from_main(fail)
        except DataError as error:
            return str(error), error.is_shown_elsewhere
        raise AssertionError("from_main did not raise")

    assert run_ranks(body, tmp_path) == [("no features", False), ("no features", True)]


def test_an_error_that_all_ranks_raise_is_shown_once(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> bool:
        try:
            with ranks.together():
                raise DataError("no features")
        except DataError as error:
            return error.is_shown_elsewhere

    assert run_ranks(body, tmp_path) == [False, True]


def test_ranks_that_disagree_say_so(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> str:
        ranks.check_agreement("same", "the weights")
        try:
            ranks.check_agreement(ranks.rank, "the weights")
        except DistributedError as error:
            return str(error)
        raise AssertionError("check_agreement did not raise")

    message = "the ranks disagree on the weights: rank 0: 0, rank 1: 1"
    assert run_ranks(body, tmp_path) == [message, message]


def waits(ranks: Ranks) -> Ranks:
    """The same ranks, in a group that waits two seconds at most."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=2))
    return replace(ranks, control=group, beat_seconds=0.25)


def test_slow_work_of_the_main_rank_outlasts_the_timeout_of_those_who_wait(tmp_path: Path) -> None:
    def slow() -> str:
        time.sleep(5)
        return "done"

    def body(ranks: Ranks) -> list[Any]:
        ranks = waits(ranks)
        return [ranks.from_main(slow), ranks.sum_counts([1.0]), ranks.from_main(lambda: 7)]

    assert run_ranks(body, tmp_path) == [["done", [2.0], 7]] * 2


def of_main(tmp_path: Path, compute: Callable[[], Any]) -> list[tuple[str, str, bool]]:
    """Class and text of what each rank raises when the main one computes, and whether somebody else shows it."""

    def body(ranks: Ranks) -> tuple[str, str, bool]:
        ranks = waits(ranks)
        try:
            ranks.from_main(compute)
        except BaseException as error:
            ranks.barrier()  # everybody is still in step
            return type(error).__name__, str(error), getattr(error, "is_shown_elsewhere", False)
        raise AssertionError("from_main did not raise")

    return run_ranks(body, tmp_path)


class TwoPartError(RunnerError):
    """Can be pickled, but not be read back."""

    exit_status = 5

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail(error: BaseException) -> Any:
    raise error


def test_a_bug_on_the_main_rank_reaches_all_and_keeps_its_traceback_there(tmp_path: Path) -> None:
    main, other = of_main(tmp_path, lambda: fail(ValueError("no such thing")))
    assert main == ("ValueError", "no such thing", False)
    assert other == ("FailedElsewhereError", "another process failed: ValueError: no such thing", True)


def test_an_interrupt_of_the_main_rank_reaches_all(tmp_path: Path) -> None:
    main, other = of_main(tmp_path, lambda: fail(KeyboardInterrupt()))
    assert main[0] == "KeyboardInterrupt"
    assert other[0] == "FailedElsewhereError"


def test_an_error_that_cannot_travel_does_so_as_text(tmp_path: Path) -> None:
    main, other = of_main(tmp_path, lambda: fail(TwoPartError("it is", "broken")))
    assert main == ("TwoPartError", "it is broken", False)
    assert other == ("RunnerError", "it is broken", True)


def test_an_answer_that_cannot_travel_is_a_bug_on_all(tmp_path: Path) -> None:
    main, other = of_main(tmp_path, lambda: lambda: None)
    assert main[2] is False
    assert "pickle" in main[1]
    assert other[0] == "FailedElsewhereError"


@pytest.mark.parametrize(
    ("error", "elsewhere"), [(DataError("too large"), "DataError"), (ValueError("a bug"), "FailedElsewhereError")]
)
def test_what_one_rank_raises_alone_is_raised_on_all_and_shown_there(
    tmp_path: Path, error: Exception, elsewhere: str
) -> None:
    def body(ranks: Ranks) -> tuple[str, bool]:
        ranks = waits(ranks)
        with ranks.together():
            pass
        try:
            with ranks.together():
                if ranks.rank == 1:
                    raise error
        except Exception as caught:
            ranks.barrier()
            return type(caught).__name__, getattr(caught, "is_shown_elsewhere", False)
        raise AssertionError("nothing was raised")

    found = run_ranks(body, tmp_path, 3)
    assert found == [(elsewhere, True), (type(error).__name__, False), (elsewhere, True)]


def test_what_several_ranks_raise_is_shown_by_the_first_of_them(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> tuple[str, bool]:
        try:
            with ranks.together():
                if ranks.rank:
                    raise DataError(f"rank {ranks.rank}")
        except DataError as caught:
            return str(caught), caught.is_shown_elsewhere
        raise AssertionError("nothing was raised")

    assert run_ranks(body, tmp_path, 3) == [("rank 1", True), ("rank 1", False), ("rank 2", True)]


def test_a_rank_that_does_not_answer_is_named(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> str:
        group = waits(ranks)
        if ranks.rank == 1:
            time.sleep(4)
            return ""
        try:
            group.any(True)
        except DistributedError as error:
            return str(error)
        raise AssertionError("nobody was there")

    message = run_ranks(body, tmp_path)[0]
    assert message.startswith("another process is gone or does not answer (Timed out waiting 2000ms for")
    assert "--resume" in message


LOST = "[../gloo/transport/tcp/pair.cc:78] Timed out waiting 10ms\nand more"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(LOST),
        RuntimeError("the solver timed out"),
        RuntimeError("NCCL and gloo do not fit, connection reset"),
    ],
    ids=["words of gloo", "timed out", "NCCL"],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_only_errors_of_torch_distributed_are_lost_ranks(error: RuntimeError, world_size: int) -> None:
    with pytest.raises(RuntimeError) as caught, lost_ranks_explained(world_size):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("kind", [dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError])
def test_an_error_of_torch_distributed_is_a_lost_rank_where_there_are_several(kind: type[RuntimeError]) -> None:
    with pytest.raises(DistributedError, match=r"does not answer \(no answer\).*--resume"), lost_ranks_explained(2):
        raise kind("[backend.cpp:7] no answer\nand more")
    with pytest.raises(kind), lost_ranks_explained(1):
        raise kind("no answer")


def test_an_error_inside_a_collective_that_is_no_loss_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(0, 2, torch.device("cpu"))
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: fail(RuntimeError("shapes do not fit, gloo")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        ranks.any(True)
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: fail(RuntimeError(LOST)))
    with pytest.raises(DistributedError, match="Timed out waiting 10ms"):
        ranks.any(True)


def test_more_processes_than_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DistributedError, match="2 processes were asked for, this machine has 1 GPUs"):
        choose_device(0, 2)
