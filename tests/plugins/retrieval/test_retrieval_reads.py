"""Each split is read once in a run, in an evaluation after it, and when its predictions are scored again."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import matching_world as toy
import numpy as np
import pytest
import torch
from matching_world import experiment

from vlrun import Dataset, Example
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, open_run_folder
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run, predict_run, score_file
from vlrun.runs.run import run_experiment
from vlrun_retrieval.candidates import CandidatePool, SplitPools

Reads = Counter[tuple[str, int]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """How often each example was read; the engine asks for image ids without reading, as in annotation files."""
    counts: Reads = Counter()
    read = toy.Captions.__getitem__

    def counted(dataset: toy.Captions, index: int) -> Example[int]:
        counts[dataset.split, index] += 1
        return read(dataset, index)

    monkeypatch.setattr(toy.Captions, "__getitem__", counted)
    monkeypatch.setattr(
        toy.Captions, "image_ids", lambda dataset: [example.image_ids[0] for example in dataset.examples]
    )
    return counts


def once(*splits: str, peeks: int = 1) -> Reads:
    """Each example once; the first of a split also ``peeks`` times, when the engine asks whether targets are hidden."""
    sizes = {"val": 12, "test": 10}
    counts = Counter({(split, index): 1 for split in splits for index in range(sizes[split])})
    return counts + Counter({(split, 0): peeks for split in splits})


def of_evaluation(reads: Reads) -> Reads:
    return Counter({place: count for place, count in reads.items() if place[0] != "train"})


@pytest.mark.parametrize("part", ["null", "3"], ids=["all images between epochs", "some images between epochs"])
def test_a_run_and_what_follows_read_each_split_once(
    caption_world: Path, caption_plugins: Plugins, reads: Reads, part: str
) -> None:
    loaded = experiment(caption_world, caption_plugins, f"tasks.0.validation_images={part}")
    result = run_experiment(loaded, plugins=caption_plugins)
    assert len({row.split for row in result.rows}) == 2
    assert of_evaluation(reads) == once("val", "test")

    folder, ranks = open_run_folder(result.folder), Ranks(0, 1, torch.device("cpu"))
    for again in (evaluate_run, predict_run):
        reads.clear()
        assert again(OpenedRun(folder, loaded, caption_plugins), ranks, Reporters([]))
        assert reads == once("val", "test")
    reads.clear()
    score_file(loaded, "val", result.folder / "predictions" / "matching_val.jsonl", caption_plugins)
    assert reads == once("val", peeks=0)


class Unhashable(Dataset[int]):
    """Equal to every other one, and without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, images: int) -> None:
        self.split, self.protocol = name, {}
        self.examples = [Example(f"{name}{n}", f"text {n}", (f"img{n % images}",), n) for n in range(3 * images)]

    def __eq__(self, other: object) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[int]:
        return self.examples[index]


def test_datasets_are_told_apart_by_identity_alone() -> None:
    pools, one, other = SplitPools(), Unhashable("one", 4), Unhashable("other", 4)
    assert pools.pool(one) is pools.pool(one)
    assert pools.pool(one).text_ids[0] == "one0"
    assert pools.pool(other).text_ids[0] == "other0"


def test_the_memo_holds_its_datasets_so_that_no_other_takes_their_place() -> None:
    pools = SplitPools()
    for number in range(50):  # without a reference, the next one would get the address of the last
        assert pools.pool(Unhashable(f"{number}-", 2)).text_ids[0] == f"{number}-0"


def test_the_first_images_are_the_pool_of_the_examples_that_are_left() -> None:
    pools, dataset = SplitPools(), Unhashable("split", 5)
    part = pools.first_images(dataset, 2)
    assert pools.first_images(dataset, 2) is part
    assert pools.first_images(dataset, 5) is dataset
    pool, read = pools.pool(part), CandidatePool.of(part)
    assert pool.fingerprint == read.fingerprint
    assert np.array_equal(pool.owner, read.owner)
    assert (len(pool.image_ids), len(pool.texts), len(part)) == (2, 6, 6)


def test_loader_workers_get_no_pools(caption_world: Path, caption_plugins: Plugins) -> None:
    config: Any = experiment(caption_world, caption_plugins).tasks[0]
    task = toy.ToyMatching(config)
    before = len(pickle.dumps(task))
    task.pools.pool(Unhashable("split", 100))
    assert len(pickle.dumps(task)) == before
