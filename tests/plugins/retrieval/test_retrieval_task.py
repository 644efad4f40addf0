"""Pairs of training: what is drawn, from where, and that chance alone decides which; and how the loss counts them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vlrun import DataError, Encoding, Example, Pair, RegionBatch
from vlrun.data.loading import BatchMaker, TrainingPlan
from vlrun.seeds import example_rng
from vlrun.testing import make_regions
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.dataset import Caption
from vlrun_retrieval.hard_negatives import write_negatives
from vlrun_retrieval.negatives import Ids

losses = pytest.mark.parametrize("loss", ["triple", "four-way"])
kinds = pytest.mark.parametrize("negatives", ["random", "in-batch", "mined"])

SLOTS = {"triple": ["own", "caption", "image"], "four-way": ["own", "image", "caption", "caption"]}


def image_of(text: str) -> str:
    return text.partition(" ")[0]


def slots(pairs: Sequence[Pair], example: Example[Caption]) -> list[str]:
    """What is wrong with each pair: its caption, its image, or nothing because it is the example's own."""
    found = []
    for pair in pairs:
        if pair == Pair(example.text, example.image_ids[0]):
            found.append("own")
        elif pair.image_id == example.image_ids[0]:
            found.append("caption" if image_of(pair.text) != pair.image_id else "right caption")
        else:
            found.append("image" if pair.text == example.text else "both")
    return found


def all_pairs(task: Any, captions: Any, epoch: int = 0) -> list[list[Pair]]:
    return [task.pairs(example, example_rng(3, epoch, index)) for index, example in enumerate(captions)]


class BlankStore:
    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        return make_regions(image_ids, 4)


def no_encoding(pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
    blank = torch.zeros(len(pairs), 1)
    return Encoding(blank.long(), blank.bool(), blank, blank, blank.bool())


@losses
@kinds
def test_each_example_has_its_own_pair_first_and_no_negative_of_its_own_image(
    make_task: Any, captions: Any, miner: Any, loss: str, negatives: str
) -> None:
    task = make_task(loss, negatives)
    task.start_training(captions, seed=0)
    for epoch in range(5):
        task.start_epoch(epoch, miner)
        for index, example in enumerate(captions):
            rng = example_rng(0, epoch, index)
            pairs = task.pairs_in_batch(example, captions.examples, rng) if task.in_batch else task.pairs(example, rng)
            assert slots(pairs, example) == SLOTS[loss]


def test_random_negatives_reach_every_other_caption_and_image(make_task: Any, captions: Any) -> None:
    task = make_task()
    task.start_training(captions, seed=0)
    example = captions[4]
    drawn = [task.pairs(example, example_rng(0, epoch, 4)) for epoch in range(400)]
    others = [other for other in captions if other.image_ids != example.image_ids]
    assert {pairs[1].text for pairs in drawn} == {other.text for other in others}
    assert {pairs[2].image_id for pairs in drawn} == {other.image_ids[0] for other in others}


@kinds
def test_pairs_depend_on_seed_epoch_and_example_alone(
    make_task: Any, captions: Any, miner: Any, negatives: str
) -> None:
    """Whatever the number of ranks, and in a loader worker, which gets a copy of the task."""

    def pairs_of(world_size: int) -> dict[str, list[Pair]]:
        task = make_task("four-way", negatives)
        task.start_training(captions, seed=5)
        task.start_epoch(1, miner)
        found = {}
        for rank in range(world_size):
            plan = TrainingPlan(len(captions), 6, seed=5, rank=rank, world_size=world_size, micro_batches=6)
            copied = pickle.loads(pickle.dumps(task))
            maker = BatchMaker(copied, captions, BlankStore(), no_encoding, seed=5, plan=plan)
            for step in range(plan.steps_per_epoch):
                for addresses in plan.batches(1, step):
                    examples, pairs = maker.pairs(addresses)
                    found.update(zip((example.id for example in examples), pairs, strict=True))
        return found

    alone = pairs_of(1)
    assert len(alone) == 18
    assert pairs_of(2) == pairs_of(3) == alone


def test_in_batch_negatives_are_of_the_global_batch(make_task: Any, captions: Any) -> None:
    task = make_task("triple", "in-batch")
    task.start_training(captions, seed=0)
    for rank in range(2):
        plan = TrainingPlan(len(captions), 6, seed=0, rank=rank, world_size=2)
        maker = BatchMaker(task, captions, BlankStore(), no_encoding, seed=0, plan=plan)
        seen = set()
        for epoch in range(40):
            batch = [captions[position] for position in plan.global_batch(epoch, 1)]
            _, pairs = maker.pairs(plan.batches(epoch, 1)[0])
            assert {own[1].text for own in pairs} <= {example.text for example in batch}
            assert {own[2].image_id for own in pairs} <= {example.image_ids[0] for example in batch}
            mine = {captions[position].text for _, position in plan.batches(epoch, 1)[0]}
            seen |= {own[1].text in mine for own in pairs}
        assert seen == {True, False}  # those of the other rank too


def test_a_batch_of_one_image_falls_back_to_random_negatives(make_task: Any, captions: Any) -> None:
    task = make_task("triple", "in-batch")
    task.start_training(captions, seed=0)
    batch = [example for example in captions if example.image_ids == ("2",)]
    assert len(batch) == 3
    pairs = task.pairs_in_batch(batch[0], batch, example_rng(0, 0, 0))
    assert slots(pairs, batch[0]) == SLOTS["triple"]


def test_mined_negatives_come_from_the_row_of_the_image_and_of_the_caption(
    make_task: Any, captions: Any, miner: Any
) -> None:
    task = make_task("triple", "mined", candidates=6, keep=2)
    task.start_training(captions, seed=0)
    task.start_epoch(0, miner)
    pool = CandidatePool.of(captions)
    table = miner.mine(pool, 0, 6, 2)
    for row, example in enumerate(captions):
        drawn = [task.pairs(example, example_rng(0, epoch, row)) for epoch in range(30)]
        hard = {pool.texts[text] for text in table.texts_of_images[pool.owner[row]]}
        assert {pairs[1].text for pairs in drawn} == hard
        assert {pairs[2].image_id for pairs in drawn} == {pool.image_ids[i] for i in table.images_of_texts[row]}


def test_of_four_pairs_only_the_hard_caption_is_mined(make_task: Any, captions: Any, miner: Any) -> None:
    task = make_task("four-way", "mined", candidates=6, keep=1)
    task.start_training(captions, seed=0)
    task.start_epoch(0, miner)
    drawn = [task.pairs(captions[0], example_rng(0, epoch, 0)) for epoch in range(60)]
    assert len({pairs[2].text for pairs in drawn}) == 1
    assert len({pairs[1].image_id for pairs in drawn}) == 8
    assert len({pairs[3].text for pairs in drawn}) > 8


def test_mining_follows_the_schedule_and_is_random_before_it(make_task: Any, captions: Any, miner: Any) -> None:
    task = make_task("triple", "mined", candidates=6, keep=2, every=3, from_epoch=4)
    task.start_training(captions, seed=0)
    before = []
    for epoch in range(10):
        task.start_epoch(epoch, miner)
        before.append(task.hard is None)
    assert [epoch for epoch, _, _ in miner.asked] == [6, 9]
    assert before == [True] * 6 + [False] * 4


def test_a_resumed_run_asks_for_the_epoch_whose_negatives_are_still_in_use(
    make_task: Any, captions: Any, miner: Any
) -> None:
    unbroken, resumed = (make_task("triple", "mined", candidates=6, keep=2, every=3) for _ in range(2))
    for task, epochs in ((unbroken, range(6)), (resumed, range(5, 6))):
        task.start_training(captions, seed=0)
        for epoch in epochs:
            task.start_epoch(epoch, miner)
    assert miner.asked == [(0, 6, 2), (3, 6, 2), (3, 6, 2)]
    assert all_pairs(resumed, captions, epoch=5) == all_pairs(unbroken, captions, epoch=5)


def test_negatives_of_a_pool_file_are_used_from_the_start(
    make_task: Any, captions: Any, miner: Any, tmp_path: Path
) -> None:
    pool = CandidatePool.of(captions)
    table = miner.mine(pool, 0, 4, 4)
    write_negatives(tmp_path / "hard.npz", pool, table, {})
    task = make_task("triple", "pool", file=str(tmp_path / "hard.npz"))
    task.start_training(captions, seed=0)
    task.start_epoch(0, miner)
    assert miner.asked == [(0, 4, 4)]  # ours, above
    for row, pairs in enumerate(all_pairs(task, captions)):
        assert pairs[1].text in {pool.texts[text] for text in table.texts_of_images[pool.owner[row]]}
        assert pairs[2].image_id in {pool.image_ids[image] for image in table.images_of_texts[row]}


def test_a_pool_file_of_other_captions_is_refused(make_task: Any, captions: Any, miner: Any, tmp_path: Path) -> None:
    pool = CandidatePool.of(captions)
    write_negatives(tmp_path / "hard.npz", pool, miner.mine(pool, 0, 4, 4), {})
    captions.examples.append(Example("9#0", "9 #0", ("9",), Caption(0)))
    task = make_task("triple", "pool", file=str(tmp_path / "hard.npz"))
    with pytest.raises(DataError, match=r"9#0"):
        task.start_training(captions, seed=0)


def test_training_data_of_one_image_has_no_negatives(make_task: Any, captions: Any) -> None:
    captions.examples = captions.examples[:1]
    with pytest.raises(DataError, match="at least two images"):
        make_task().start_training(captions, seed=0)


def test_training_data_with_an_id_twice_is_refused(make_task: Any, captions: Any) -> None:
    captions.examples += captions.examples[3:5]
    with pytest.raises(DataError, match="2 ids are those of several texts: 2#0, 2#1"):
        make_task().start_training(captions, seed=0)


def test_rows_of_ids_are_found_whatever_their_length() -> None:
    ids = ["b", "a", "äöü", "a#10", "a#1", "zz"]
    table = Ids(ids, "caption")
    assert [table.row(name) for name in ids] == list(range(6))
    assert [table.name(row) for row in range(6)] == ids
    for unknown in ("", "zzz", "a#", "a#100000000000"):
        with pytest.raises(DataError, match=f"caption '{unknown}' is none of the training data"):
            table.row(unknown)


def test_what_a_loader_worker_gets_holds_rows_and_ids_but_no_texts(make_task: Any, captions: Any, miner: Any) -> None:
    captions.examples = [Example(f"{n}#0", "long " * 100, (f"{n}",), Caption(0)) for n in range(1000)]
    task = make_task("triple", "mined", candidates=6, keep=5)
    task.start_training(captions, seed=0)
    task.start_epoch(0, miner)
    captions.examples = []  # a dataset on disk reads its file itself
    assert len(pickle.dumps(task)) < 1000 * 100


@losses
def test_collate_marks_the_first_pair_of_each_example(make_task: Any, captions: Any, loss: str) -> None:
    targets = make_task(loss).collate(captions.examples[:3], None, None)
    length = len(SLOTS[loss])
    assert targets["matches"].tolist() == ([1] + [0] * (length - 1)) * 3


def test_the_triple_loss_counts_the_own_pair_twice(make_task: Any, captions: Any) -> None:
    task = make_task("triple")
    targets = task.collate(captions.examples[:5], None, None)
    logits = torch.randn(15, 2, generator=torch.Generator().manual_seed(0))
    own, caption, image = logits[0::3], logits[1::3], logits[2::3]
    one, zero = torch.ones(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    expected = 2 * F.cross_entropy(own, one) + F.cross_entropy(caption, zero) + F.cross_entropy(image, zero)
    counts = task.loss_counts(targets)
    total = sum(value / counts[name] for name, value in task.loss(logits, targets).items())
    torch.testing.assert_close(total, expected)
    assert {name: int(count) for name, count in counts.items()} == {"matched": 5, "wrong_caption": 5, "wrong_image": 5}


def test_the_four_way_loss_is_the_binary_cross_entropy_of_the_original(make_task: Any, captions: Any) -> None:
    task = make_task("four-way")
    targets = task.collate(captions.examples[:3], None, None)
    logits = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    both = F.one_hot(targets["matches"], 2).float()
    expected = F.binary_cross_entropy(logits.softmax(-1), both) * 2
    counts = task.loss_counts(targets)
    assert {name: int(count) for name, count in counts.items()} == {"matching": 12}
    torch.testing.assert_close(task.loss(logits, targets)["matching"] / 12, expected)


@losses
def test_losses_of_parts_of_a_batch_add_up(make_task: Any, captions: Any, loss: str) -> None:
    task = make_task(loss)
    length = len(SLOTS[loss])
    logits = torch.randn(4 * length, 2, generator=torch.Generator().manual_seed(0))

    def of(examples: slice) -> tuple[dict[str, float], dict[str, int]]:
        targets = task.collate(captions.examples[examples], None, None)
        part = logits[examples.start * length : examples.stop * length]
        sums, counts = task.loss(part, targets), task.loss_counts(targets)
        return {name: v.item() for name, v in sums.items()}, {name: int(v) for name, v in counts.items()}

    (whole, count), (first, few), (rest, others) = of(slice(0, 4)), of(slice(0, 1)), of(slice(1, 4))
    assert whole == pytest.approx({name: first[name] + rest[name] for name in whole}, rel=1e-5)
    assert count == {name: few[name] + others[name] for name in count}
    assert set(count) == set(whole)
