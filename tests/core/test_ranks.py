"""Two processes count, gather and sum as one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vlrun.engine import ranks as ranks_module
from vlrun.engine.ranks import Ranks, lost_ranks_named
from vlrun.errors import DataError, DistributedError
from vlrun.testing import run_ranks


def test_gradients_are_summed_and_unused_parameters_take_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks_module, "_BUCKET_BYTES", 64)  # several buckets

    def body(ranks: Ranks) -> tuple[list[torch.Tensor], bool]:
        used = [nn.Parameter(torch.zeros(size)) for size in (3, 20, 1, 40)]
        unused = nn.Parameter(torch.zeros(5))
        for index, parameter in enumerate(used):
            parameter.grad = torch.full_like(parameter, float(10 * index + ranks.rank + 1))
        ranks.sum_gradients([*used, unused])
        return [parameter.grad for parameter in used if parameter.grad is not None], unused.grad is None

    for gradients, unused_has_none in run_ranks(body, tmp_path):
        assert unused_has_none
        for index, gradient in enumerate(gradients):
            assert torch.equal(gradient, torch.full_like(gradient, 20.0 * index + 3))


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
            with ranks.alike():
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


def test_a_lost_rank_is_named_and_a_bug_stays_a_bug() -> None:
    with (
        pytest.raises(DistributedError, match=r"does not answer \(Timed out waiting 10ms\).*--resume"),
        lost_ranks_named(),
    ):
        raise RuntimeError("[gloo/transport.cc:78] Timed out waiting 10ms\nand more")
    with pytest.raises(RuntimeError, match="shapes"), lost_ranks_named():
        raise RuntimeError("shapes do not fit")


def test_more_processes_than_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DistributedError, match="2 processes were asked for, this machine has 1 GPUs"):
        ranks_module.choose_device(0, 2)
