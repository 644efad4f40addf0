"""Order and shares are addressed: workers, ranks and restarts never change what is trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world as toy

from vlrun import Batch, DatasetConfig, Example, Pair, Unmasked
from vlrun.data.loading import (
    BatchLoader,
    BatchMaker,
    EvaluationBatches,
    TrainingPlan,
    epoch_order,
)
from vlrun.data.workers import default_workers
from vlrun.features.store import RegionFeatureStore
from vlrun.seeds import derive_seed, example_rng


def positions(plan: TrainingPlan, epoch: int, first_step: int = 0) -> list[list[int]]:
    return [
        [position for _, position in batch]
        for step in range(first_step, plan.steps_per_epoch)
        for batch in plan.batches(epoch, step)
    ]


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.golden
def test_order_seed_zero_is_the_original_sampler_without_its_repeats(golden: Path) -> None:
    items = json.loads((golden / "rosita" / "sampler.json").read_text())["items"]
    assert items
    for item in items:
        size, world = item["size"], item["world"]
        order = list(epoch_order(size, 0, item["epoch"], order_seed=0)) if item["shuffle"] else list(range(size))
        repeats = order[: -size % world]  # what the original adds to even out the ranks, and we never do
        assert [(order + repeats)[rank::world] for rank in range(world)] == item["per_rank"]
        ours = [order[rank::world] for rank in range(world)]
        assert sorted(position for share in ours for position in share) == list(range(size))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_a_step_trains_on_the_same_examples_however_it_is_spread(world_size: int, micro_batches: int) -> None:
    alone = positions(TrainingPlan(53, 12, seed=3), epoch=1)
    shares = [
        positions(TrainingPlan(53, 12, 3, rank=rank, world_size=world_size, micro_batches=micro_batches), epoch=1)
        for rank in range(world_size)
    ]
    steps = len(alone)
    passes = [len(share) // steps for share in shares]
    for step in range(steps):
        parts = [part for share, each in zip(shares, passes, strict=True) for part in share[step * each :][:each]]
        assert len(parts) == max(micro_batches, world_size)
        assert all(parts)
        assert sorted(position for part in parts for position in part) == sorted(alone[step])


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    plan = TrainingPlan(53, 8, seed=3)
    assert positions(plan, 2, first_step=4) == positions(plan, 2)[4:]


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "drop_last", "steps"),
    [(10, 5, True, 2), (11, 5, True, 2), (11, 5, False, 3), (3, 5, True, 1)],
    ids=["exact", "rest dropped", "rest kept", "less than a batch"],
)
def test_steps_per_epoch(num_examples: int, batch_size: int, drop_last: bool, steps: int) -> None:
    plan = TrainingPlan(num_examples, batch_size, seed=0, drop_last=drop_last)
    assert plan.steps_per_epoch == steps == len(positions(plan, 0))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_batches_are_the_same_for_any_world_size_and_cover_each_example_once(world_size: int) -> None:
    alone = EvaluationBatches(23, 4, 0, 1)
    shares = [EvaluationBatches(23, 4, rank, world_size) for rank in range(world_size)]
    assert sorted(batch for share in shares for batch in share) == sorted(alone)
    assert [position for batch in alone for _, position in batch] == list(range(23))
    assert {share.rounds for share in shares} == {max(map(len, shares))}


def test_evaluation_batches_are_counted_without_making_them() -> None:
    batches = EvaluationBatches(10**15, 64, rank=0, world_size=3)  # a list of them would not fit into any memory
    assert len(batches) == batches.rounds == -(-(10**15) // (64 * 3))
    assert batches[-1][0] == (0, 64 * 3 * (len(batches) - 1))
    with pytest.raises(IndexError):
        batches[len(batches)]


@pytest.mark.parametrize(
    ("device", "is_pinned", "is_asynchronous"),
    [("cpu", True, False), ("cpu", False, False), ("meta", True, True), ("meta", False, False)],
    ids=["pinned to CPU", "to CPU", "pinned to accelerator", "unpinned to accelerator"],
)
def test_only_a_copy_from_pinned_memory_to_an_accelerator_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, device: str, is_pinned: bool, is_asynchronous: bool
) -> None:
    batch = Batch(("a",), None, {"x": torch.ones(1)})  # type: ignore[arg-type]
    asked: list[bool] = []
    move = torch.Tensor.to

    def spy(tensor: torch.Tensor, target: Any, non_blocking: bool = False) -> torch.Tensor:
        asked.append(non_blocking)
        return move(tensor, target)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: is_pinned)
    assert batch.to(device).targets["x"].device.type == device
    assert asked == [is_asynchronous]


def test_the_generator_of_an_example_depends_on_its_address_alone() -> None:
    draws = {example_rng(*address).integers(1 << 60) for address in [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0)]}
    assert len(draws) == 4
    assert example_rng(1, 2, 3).integers(1 << 60) == example_rng(1, 2, 3).integers(1 << 60)
    assert derive_seed(1, "order", 23) != derive_seed(1, "order", 2, 3)


class Neighbours(toy.ToyTask):
    """Pairs a text with the image of another example of its batch, and adds noise to what the model is shown."""

    in_batch = True

    def pairs_in_batch(
        self, example: Example[int], batch: Sequence[Example[int]], rng: np.random.Generator
    ) -> list[Pair]:
        other = batch[int(rng.integers(len(batch)))]
        return [Pair(example.text, example.image_ids[0]), Pair(example.text, other.image_ids[0])]

    def mask(self, unmasked: Unmasked[int]) -> Any:
        noise = torch.tensor([rng.normal() for rng in unmasked.rngs])
        boxes = unmasked.encoding.boxes + noise[:, None, None]
        return replace(unmasked.encoding, boxes=boxes), {"noise": noise}


@pytest.fixture
def neighbours(world: Path) -> Callable[..., BatchMaker]:
    config = DatasetConfig(name="toys", annotations=world, features=world, evaluate=["val"])
    dataset, store = toy.ToyDataset(config, "train"), RegionFeatureStore(world / "data" / "toys.lmdb")
    return partial(BatchMaker, Neighbours(), dataset, store, toy.ToyEncoder(None), seed=3)


def made(neighbours: Callable[..., BatchMaker], plan: TrainingPlan, epoch: int) -> dict[str, Any]:
    """What the model is shown of each example."""
    maker = neighbours(plan=plan)
    shown = {}
    for step in range(plan.steps_per_epoch):
        for addresses in plan.batches(epoch, step):
            batch = maker.__getitems__(addresses)
            assert isinstance(batch, Batch)
            for row, name in enumerate(batch.ids):
                own = slice(2 * row, 2 * row + 2)
                shown[name] = torch.cat([batch.encoding.boxes[own].flatten(), batch.targets["noise"][own]])
    return shown


def test_pairs_from_the_batch_and_masks_are_the_same_for_any_spread(neighbours: Callable[..., BatchMaker]) -> None:
    alone = made(neighbours, TrainingPlan(23, 6, 3, drop_last=False), epoch=1)
    assert len(alone) == 23
    spread: dict[str, Any] = {}
    for rank in range(2):
        plan = TrainingPlan(23, 6, 3, drop_last=False, rank=rank, world_size=2, micro_batches=4)
        spread |= made(neighbours, plan, epoch=1)
    assert spread.keys() == alone.keys()
    assert all(torch.equal(spread[name], alone[name]) for name in alone)
    other = made(neighbours, TrainingPlan(23, 6, 3, drop_last=False), epoch=2)
    assert not all(torch.equal(other[name], alone[name]) for name in alone)


class Curious(toy.ToyTask):
    """Keeps what it is given, and reads an image that is in no pair."""

    def mask(self, unmasked: Unmasked[int]) -> Any:
        other = unmasked.read_regions(["img0"])
        self.seen = unmasked, other
        return unmasked.encoding, {}


def test_a_mask_sees_the_example_and_the_regions_of_each_pair_and_any_other_image(world: Path) -> None:
    config = DatasetConfig(name="toys", annotations=world, features=world, evaluate=["val"])
    dataset, store = toy.ToyDataset(config, "train"), RegionFeatureStore(world / "data" / "toys.lmdb")
    task = Curious()
    batch = BatchMaker(task, dataset, store, toy.ToyEncoder(None), seed=3).made([(0, 4), (0, 2)])
    unmasked, other = task.seen
    assert [example.id for example in unmasked.examples] == [name for name in batch.ids for _ in range(2)]
    assert unmasked.regions.image_ids == tuple(pair.image_id for pair in unmasked.pairs)
    assert len(unmasked.rngs) == len(unmasked.pairs) == len(unmasked.encoding.token_ids)
    np.testing.assert_array_equal(other.features[0], store["img0"].features)


def test_an_evaluation_has_no_batch_to_draw_from(neighbours: Callable[..., BatchMaker]) -> None:
    maker = neighbours()
    examples, pairs = maker.pairs([(0, 0), (0, 1)])
    assert [own[0].text for own in pairs] == [example.text for example in examples]
    whole = [maker.dataset[place] for place in TrainingPlan(23, 6, 3).batch_of(0, 5)]
    assert maker.dataset[5] in whole
    assert len(whole) <= 6


@pytest.mark.parametrize(("cpus", "gpus", "workers"), [(64, 8, 4), (4, 2, 2), (2, 8, 1), (1, 1, 1)])
def test_loader_workers_are_as_many_as_the_cpus_that_may_be_used_allow(
    monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int, workers: int
) -> None:
    monkeypatch.setattr("vlrun.data.workers.usable_cpus", lambda: cpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert default_workers(torch.device("cuda")) == workers
    assert default_workers(torch.device("cpu")) == 0


class Workers:
    """Makes batches that say which process made them, and what it knew."""

    known = "at first"

    def __getitems__(self, addresses: list[int]) -> Any:
        return os.getpid(), self.known, addresses


def test_workers_live_on_until_they_are_let_go() -> None:
    maker = Workers()
    loader = BatchLoader(maker, workers=1)  # type: ignore[arg-type]
    runs: list[list[Any]] = [list(loader.batches(iter(batches))) for batches in ([[1], [2, 3]], [[4]], [])]
    maker.known = "later"
    assert [addresses for made in runs for _, _, addresses in made] == [[1], [2, 3], [4]]
    (process,) = {process for made in runs for process, _, _ in made}
    ((same, known, _),) = list(loader.batches([[5]]))
    assert (same, known) == (process, "at first"), "they have a copy of the maker"
    loader.restart()
    ((other, known, _),) = list(loader.batches([[6]]))
    assert (other != process, known) == (True, "later")
