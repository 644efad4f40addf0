"""Several splits as one: what identifies each of them is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import toy_world as toy

from vlrun import DatasetConfig, TaskConfig
from vlrun.data.identities import Identities
from vlrun.data.splits import JoinedSplits, Selection, TaskData, split_records

CONFIG = DatasetConfig(name="toys", annotations=Path(), features=Path(), evaluate=["val"])


def split(name: str, **protocol: str) -> toy.ToyDataset:
    dataset = toy.ToyDataset(CONFIG, name)
    dataset.protocol = {"dataset": "toys", **protocol}
    return dataset


def test_joined_splits_keep_the_hash_of_every_file() -> None:
    joined = JoinedSplits([split("train", annotations_sha256="aa"), split("val", annotations_sha256="bb", part="x")])
    assert joined.protocol == {"dataset": "toys", "annotations_sha256": "train: aa; val: bb", "part": "val: x"}
    assert split_records(joined) == [
        {"split": "train", "examples": 23, "dataset": "toys", "annotations_sha256": "aa"},
        {"split": "val", "examples": 13, "dataset": "toys", "annotations_sha256": "bb", "part": "x"},
    ]


def task_data(*parts: Any) -> TaskData:
    nothing: Any = None
    config = TaskConfig(name="match", dataset=CONFIG)
    return TaskData(config, nothing, {}, {}, nothing, JoinedSplits(parts))


def test_images_are_taken_out_of_each_split_and_counted_there() -> None:
    train, val = split("train"), split("val")
    cleaned = task_data(train, val).without({"img0", "img1"}, Identities())
    assert cleaned.train is not None
    expected = [example.id for example in [*train, *val] if example.image_ids[0] not in ("img0", "img1")]
    assert [example.id for example in cleaned.train] == expected
    assert [(row["examples"], row["left out"].split(":")[0]) for row in split_records(cleaned.train)] == [
        (15, "8 examples"),
        (9, "4 examples"),
    ]
    assert cleaned.train_ids() == {f"img{index}" for index in range(2, 7)}


def test_a_split_of_which_nothing_is_left_may_stand_beside_others() -> None:
    only_first = Selection(split("train"), [0], "for this test")
    cleaned = task_data(only_first, split("val")).without({"img0"}, Identities())
    assert cleaned.train is not None
    assert [len(part) for part in cleaned.train.parts] == [0, 11]
    assert cleaned.train[0].id == "val-1"
