"""Grouping texts by length: the same examples in each epoch, in other batches, whatever the number of processes."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world as toy
from toy_runs import experiment, losses, ranks_run

from vlrun import DatasetConfig, Encoding, Pair, RegionBatch, RegionFeatureStore
from vlrun.data.loading import TrainingPlan
from vlrun.data.order import LengthGroups, epoch_order, text_lengths
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

SIZE, BATCH, POOL = 215, 8, 5


@pytest.fixture
def plan() -> TrainingPlan:
    lengths = np.random.default_rng(0).integers(3, 21, SIZE).astype(np.int32)
    return TrainingPlan(SIZE, BATCH, seed=1, groups=LengthGroups(lengths, POOL))


def batches(plan: TrainingPlan, epoch: int = 0) -> list[list[int]]:
    return [list(plan.global_batch(epoch, step)) for step in range(plan.steps_per_epoch)]


@pytest.mark.parametrize("order_seed", [None, 0])
def test_every_pool_keeps_its_examples(plan: TrainingPlan, order_seed: int | None) -> None:
    plan = replace(plan, order_seed=order_seed)
    plain = batches(replace(plan, groups=None))
    grouped = batches(plan)
    assert grouped != plain
    for first in range(0, len(plain), POOL):
        before, after = (sorted(chain.from_iterable(made[first : first + POOL])) for made in (plain, grouped))
        assert before == after
    dropped = SIZE % BATCH
    last = batches(replace(plan, drop_last=False))[-1]
    assert last == epoch_order(SIZE, 1, 0, order_seed)[-dropped:].tolist(), "the last batch is left out as before"


def test_texts_of_a_batch_are_about_as_long(plan: TrainingPlan) -> None:
    assert plan.groups is not None
    lengths = plan.groups.lengths

    def padded(made: list[list[int]]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) - int(lengths[batch].sum()) for batch in made)

    assert padded(batches(plan)) < padded(batches(replace(plan, groups=None))) / 3
    mean_lengths = [lengths[batch].mean() for batch in batches(plan)[:POOL]]
    assert sorted(mean_lengths) not in (mean_lengths, mean_lengths[::-1]), "batches of a pool are shuffled"


def test_groups_have_an_address(plan: TrainingPlan) -> None:
    assert plan.groups is not None
    again = replace(plan, groups=LengthGroups(plan.groups.lengths.copy(), POOL))
    assert batches(again, 3) == batches(plan, 3)
    assert batches(plan, 4) != batches(plan, 3)
    assert batches(replace(plan, seed=2), 3) != batches(plan, 3)
    for step, batch in enumerate(batches(plan, 3)):
        assert all(list(plan.batch_of(3, position)) == batch for position in batch)
        shared = [
            position
            for rank in range(2)
            for micro_batch in replace(plan, rank=rank, world_size=2, micro_batches=4).batches(3, step)
            for _, position in micro_batch
        ]
        assert sorted(shared) == sorted(batch)


class LongEncoder(toy.ToyEncoder):
    """Text ``text n`` has n % 4 + 1 tokens."""

    def __call__(self, pairs: list[Pair], regions: RegionBatch) -> Encoding:  # type: ignore[override]
        tokens = torch.tensor([int(pair.text.split()[1]) % 4 + 1 for pair in pairs])
        return replace(super().__call__(pairs, regions), text_mask=torch.arange(4) < tokens[:, None])


def test_lengths_are_those_of_the_backbone(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlrun.data.order._TEXTS_AT_ONCE", 10)
    config = DatasetConfig(name="toys", annotations=world, features=world, evaluate=["val"])
    dataset, store = toy.ToyDataset(config, "train"), RegionFeatureStore(world / "data" / "toys.lmdb")
    lengths = text_lengths(dataset, LongEncoder(None), store)
    assert lengths.tolist() == [number % 4 + 1 for number in range(len(dataset))]


def test_a_run_with_groups_is_the_same_on_two_processes(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.ToyBackbone, "pair_encoder", lambda self, most: LongEncoder(None))
    options = ("train.epochs=1", "train.group_by_length=2", "train.micro_batches=2")
    alone = losses(run_experiment(experiment(world, plugins, *options), plugins=plugins))
    assert losses(ranks_run(world, plugins, 2, *options)[0][0]) == pytest.approx(alone, rel=1e-6)
    plain = run_experiment(experiment(world, plugins, *options[::2], runs_root="plain"), plugins=plugins)
    assert losses(plain) != pytest.approx(alone, rel=1e-2)
