"""Which text meets which image in pre-training: shares, sides, and draws that depend on nothing else."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pytest

from vlrun import DataError, Example
from vlrun.data.splits import JoinedSplits
from vlrun.seeds import example_rng

V, D, H = 15, 6, 8
HALF = {"words": 0.5, "regions": 0.5}


def images_drawn(task: Any, example: Example[Any], count: int = 400) -> Counter[str]:
    return Counter(task.pairs(example, example_rng(0, epoch, 0))[0].image_id for epoch in range(count))


# --- pairs ---


def test_half_of_the_captions_meet_another_image_of_their_own_split(make_task: Any, make_dataset: Any) -> None:
    task, train = make_task(), make_dataset("train")
    task.start_training(JoinedSplits([train]), 0)
    counts = images_drawn(task, train[0])
    assert set(counts) == {"train0", "train1", "train2", "train3"}
    assert counts["train0"] / 400 == pytest.approx(0.5, abs=0.07)
    assert min(counts.values()) > 400 / 6 * 0.6


def test_the_caption_stays_and_the_draw_is_addressed(make_task: Any, make_dataset: Any) -> None:
    task, val = make_task(), make_dataset("val")
    first = [task.pairs(val[index], example_rng(7, 0, index)) for index in range(9)]
    again = [pickle.loads(pickle.dumps(task)).pairs(val[index], example_rng(7, 0, index)) for index in range(9)]
    assert first == again
    assert [pairs[0].text for pairs in first] == [val[index].text for index in range(9)]


def test_evaluation_needs_no_training_and_draws_only_images_with_features(make_task: Any, make_dataset: Any) -> None:
    counts = images_drawn(make_task(), make_dataset("val")[0])
    assert set(counts) == {"val0", "val1", "val2"}, "val3 has no features"


def test_evaluation_draws_the_same_whether_or_not_it_follows_training(make_task: Any, make_dataset: Any) -> None:
    trained, fresh = make_task(), make_task()
    trained.start_training(make_dataset("train"), 0)
    example = make_dataset("val")[0]
    assert images_drawn(trained, example) == images_drawn(fresh, example)


@pytest.mark.parametrize(("mismatch", "matching"), [(0.0, 400), (1.0, 0)])
def test_the_share_of_mismatched_pairs_is_an_option(
    mismatch: float, matching: int, make_task: Any, make_dataset: Any
) -> None:
    assert images_drawn(make_task(mismatch={"probability": mismatch}), make_dataset("val")[0])["val0"] == matching


def test_the_text_is_replaced_by_that_of_an_item_with_another_image(make_task: Any, make_dataset: Any) -> None:
    task, train = make_task(mismatch={"side": "text"}), make_dataset("train")
    task.start_training(train, 0)
    texts = {example.text for example in train}
    pairs = [task.pairs(train[1], example_rng(0, epoch, 0))[0] for epoch in range(400)]
    assert {pair.image_id for pair in pairs} == {"train0"}
    assert {pair.text for pair in pairs if not pair.matched} == texts, "also its own words, of another image"
    assert {pair.text for pair in pairs if pair.matched} == {train[1].text}
    assert sum(pair.matched for pair in pairs) / 400 == pytest.approx(0.5, abs=0.07)


def test_one_image_alone_cannot_be_mismatched(make_task: Any, make_dataset: Any) -> None:
    task, train = make_task(mismatch={"probability": 1.0}), make_dataset("train")
    task.start_training(_First(train), 0)
    with pytest.raises(DataError, match="split 'train' has one image alone, so nothing of it can meet another image"):
        task.pairs(train[0], example_rng(0, 0, 0))


def test_an_image_of_no_known_split_is_named(make_task: Any) -> None:
    with pytest.raises(DataError, match="image 'elsewhere' is in none of the splits val"):
        make_task(mismatch={"probability": 1.0}).pairs(Example("1", "cats", ("elsewhere",)), example_rng(0, 0, 0))


class _First:
    split = "train"

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def image_ids(self) -> list[str]:
        return [self.dataset[0].image_ids[0]] * 5
