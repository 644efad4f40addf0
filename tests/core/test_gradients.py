"""Gradients of several ranks: summed while the backward pass goes on, and none for what no rank used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlrun.engine.gradients import SharedModel
from vlrun.engine.ranks import Ranks
from vlrun.testing import run_ranks

Gradients = dict[str, Tensor | None]


class Network(nn.Module):
    """A trunk with two heads; stands in for ``TaskModel``, with plain tensors as encodings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.heads = nn.ModuleDict({"one": nn.Linear(4, 2), "two": nn.Linear(4, 3)})

    def forward(self, task: str, encoding: Tensor) -> Tensor:
        return self.heads[task](self.frozen(self.trunk(encoding)))


def passes(rank: int, world_size: int) -> list[Tensor]:
    """Micro-batches of a rank; all ranks together have the same four."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, 4, generator=generator) for _ in range(4)][rank::world_size]


def step(model: SharedModel, ranks: Ranks, tasks: list[str], micro_batches: list[Tensor]) -> None:
    model.clear()
    for task, batch in zip(tasks, micro_batches, strict=True):
        with model.accumulating(more=batch is not micro_batches[-1]):
            model.backward(model(task, batch).square().sum())
    model.drop_unused(ranks.sum_counts(model.used()))


def gradients(network: nn.Module) -> Gradients:
    return {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in network.named_parameters()
    }


def trained(ranks: Ranks, *steps: list[str], compression: str = "none") -> list[Gradients]:
    network = Network()
    model = SharedModel(network, ranks, compression)
    found = []
    for tasks in steps:
        own = tasks[ranks.rank :: ranks.world_size]
        step(model, ranks, own, passes(ranks.rank, ranks.world_size))
        found.append(gradients(network))
    return found


ALONE = Ranks(0, 1, torch.device("cpu"))
ONE, TWO, BOTH = ["one"] * 4, ["two"] * 4, ["one", "one", "two", "one"]


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_has_the_gradient_of_all_and_none_for_unused_heads(tmp_path: Path, world_size: int) -> None:
    steps = (ONE, TWO, ONE, BOTH, TWO)  # a head that one rank, or one micro-batch, uses counts
    expected = trained(ALONE, *steps)
    assert [gradient["heads.two.weight"] is None for gradient in expected] == [True, False, True, False, False]
    for found in run_ranks(lambda ranks: trained(ranks, *steps), tmp_path, world_size):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for name, gradient in theirs.items():
                assert (gradient is None) == (ours[name] is None), name
                torch.testing.assert_close(ours[name], gradient)


def test_gradients_live_in_the_buckets_that_are_sent(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> int:
        network = Network()
        model = SharedModel(network, ranks)
        for _ in range(2):  # the first backward pass shows in which order buckets fill
            step(model, ranks, ["one"] * 2, passes(ranks.rank, 2))
        return len(
            {
                parameter.grad.untyped_storage().data_ptr()
                for parameter in network.parameters()
                if parameter.grad is not None
            }
        )

    assert run_ranks(body, tmp_path) == [1, 1], "one small bucket holds them all"


def test_compressed_gradients_are_rounded_and_the_same_on_all_ranks(tmp_path: Path) -> None:
    exact = trained(ALONE, ONE)[0]["trunk.weight"]
    first, second = run_ranks(lambda ranks: trained(ranks, ONE, compression="bf16"), tmp_path)
    found = first[0]["trunk.weight"]
    assert exact is not None
    assert found is not None
    assert torch.equal(found, second[0]["trunk.weight"])
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=2**-7, atol=2**-7 * float(exact.abs().max()))


def test_a_model_whose_parameters_are_all_frozen_needs_no_gradients(tmp_path: Path) -> None:
    def body(ranks: Ranks) -> list[float]:
        return SharedModel(Network().requires_grad_(False), ranks).used()

    assert run_ranks(body, tmp_path) == [[], []]


def test_alone_the_model_is_called_as_it_is() -> None:
    network = Network()
    model: Any = SharedModel(network, ALONE)
    assert torch.equal(model("one", torch.ones(1, 4)), network("one", torch.ones(1, 4)))
    assert model.used() == []
