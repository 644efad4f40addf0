"""Wherever region features are, batches are the same: kept on the device, read by this process, or sent by workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world as toy
from torch import Tensor
from toy_runs import experiment, losses, stop_after, weights

from vlrun import (
    ConfigError,
    DataError,
    DatasetConfig,
    Encoding,
    Example,
    RegionBatch,
    RegionFeatures,
    RegionFeatureStore,
    Unmasked,
)
from vlrun.blocks.pair_encoding import fit_regions
from vlrun.data.first_batch import outline_if_possible
from vlrun.data.loading import BatchLoader, BatchMaker
from vlrun.data.residency import (
    Buffers,
    FeatureTable,
    OutlinedBatch,
    Residency,
    RowBatch,
    bytes_needed,
    choose_place,
    on_device,
)
from vlrun.errors import StoppedOnRequest
from vlrun.features.writer import write_store
from vlrun.plugins.manager import Plugins
from vlrun.reporting.options import is_recipe
from vlrun.runs.run import run_experiment

CPU = torch.device("cpu")
SHORT = ("train.epochs=2",)
COUNTS = {"a": 3, "b": 1, "c": 5}
WIDTH = 4


@pytest.fixture
def ragged(tmp_path: Path) -> RegionFeatureStore:
    """Images with different numbers of regions."""
    rng = np.random.default_rng(0)
    images = [
        RegionFeatures(
            name, rng.normal(size=(count, WIDTH)).astype(np.float16), np.full((count, 4), 2 * count, np.float32), 9, 9
        )
        for name, count in COUNTS.items()
    ]
    write_store(tmp_path / "ragged", images)
    return RegionFeatureStore(tmp_path / "ragged")


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


@pytest.mark.parametrize("place", [("host", 0), ("host", 1), ("device", 0), ("device", 2), ("auto", 1), ("workers", 1)])
def test_a_run_is_the_same_to_the_last_bit(world: Path, plugins: Plugins, place: tuple[str, int]) -> None:
    expected = run_experiment(experiment(world, plugins, *SHORT, "features.residency=workers"), plugins=plugins)
    options = (f"features.residency={place[0]}", f"train.workers={place[1]}")
    found = run_experiment(experiment(world, plugins, *SHORT, *options, runs_root="other"), plugins=plugins)
    assert losses(found) == losses(expected)
    assert all(torch.equal(tensor, weights(expected)[name]) for name, tensor in weights(found).items())
    assert [row.score for row in found.rows] == [row.score for row in expected.rows]


def seen_features(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of features that tasks are given from now on, in this process."""
    shapes: list[tuple[int, ...]] = []
    collate = toy.ToyTask.collate

    def noting(self: Any, examples: Sequence[Example[int]], regions: RegionBatch, encoding: Encoding) -> Any:
        shapes.append(regions.features.shape)
        return collate(self, examples, regions, encoding)

    monkeypatch.setattr(toy.ToyTask, "collate", noting)
    return shapes


def test_features_on_the_device_are_not_read_again(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = seen_features(monkeypatch)
    run_experiment(experiment(world, plugins, *SHORT, "features.residency=device"), plugins=plugins)
    with_features = [shape for shape in shapes if shape[-1]]
    assert len(with_features) == 4, "when it is checked that training and two splits need none, and the first batch"
    assert len(shapes) > 2 * len(with_features)


def test_a_worker_reads_from_the_disk_what_it_does_not_send(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DatasetConfig(name="toys", annotations=world, features=world, evaluate=["val"])
    store = RegionFeatureStore(world / "data" / "toys.lmdb")
    maker = BatchMaker(toy.ToyTask(), toy.ToyDataset(config, "train"), store, toy.ToyEncoder(None), seed=3)
    residency = Residency("workers", "", {store: store.image_ids()}, workers=1)
    outline_if_possible("match", maker, [(0, 0), (0, 1)], residency)
    touched: list[str] = []
    monkeypatch.setattr(store, "touch", touched.extend)
    sent = maker.sent([(0, 0), (0, 1)])
    assert isinstance(sent, OutlinedBatch)
    assert touched == list(sent.image_ids)
    found, expected = residency.complete(sent), maker.made([(0, 0), (0, 1)])
    assert torch.equal(found.encoding.region_features, expected.encoding.region_features)


def test_a_task_that_makes_targets_of_features_gets_them(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def collate(self: Any, examples: Sequence[Example[int]], regions: RegionBatch, encoding: Encoding) -> Any:
        means = (
            encoding.region_features.float().mean((1, 2))
            if regions.features.shape[-1]
            else torch.zeros(2 * len(examples))
        )
        return {"label": (means.reshape(len(examples), -1)[:, 0] > 0).long()}

    monkeypatch.setattr(toy.ToyTask, "collate", collate)
    _is_the_same_from_workers(world, plugins, capsys, "the task makes targets of them")


def test_a_task_that_cannot_do_without_features_gets_them(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def collate(self: Any, examples: Sequence[Example[int]], regions: RegionBatch, encoding: Encoding) -> Any:
        return {"label": torch.from_numpy(regions.features[::2, 0, 0] > 0).long()}

    monkeypatch.setattr(toy.ToyTask, "collate", collate)
    _is_the_same_from_workers(world, plugins, capsys, "the task or the backbone needs them to make a batch")


def test_a_task_that_masks_regions_gets_them(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mask(self: Any, unmasked: Unmasked[Any]) -> tuple[Encoding, Mapping[str, Tensor]]:
        features = unmasked.encoding.region_features.clone()
        for row, rng in enumerate(unmasked.rngs):
            features[row, rng.integers(features.shape[1])] = 0
        return replace(unmasked.encoding, region_features=features), {}

    monkeypatch.setattr(toy.ToyTask, "mask", mask)
    _is_the_same_from_workers(world, plugins, capsys, "the task masks them")


def test_a_backbone_that_changes_features_gets_them(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = toy.ToyEncoder.__call__

    def doubling(self: Any, pairs: Any, regions: RegionBatch) -> Encoding:
        encoding = encode(self, pairs, regions)
        return replace(encoding, region_features=2 * encoding.region_features)

    monkeypatch.setattr(toy.ToyEncoder, "__call__", doubling)
    _is_the_same_from_workers(world, plugins, capsys, "the backbone changes them")


def _is_the_same_from_workers(world: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str], reason: str) -> None:
    expected = run_experiment(experiment(world, plugins, *SHORT, "features.residency=workers"), plugins=plugins)
    options = ("features.residency=host", "train.workers=1", "reporters=[{name: jsonl}, {name: console}]")
    found = run_experiment(experiment(world, plugins, *SHORT, *options, runs_root="other"), plugins=plugins)
    assert losses(found) == losses(expected)
    assert f"match: its batches take them along, for {reason}" in " ".join(capsys.readouterr().out.split())


def test_hidden_images_stay_hidden(world: Path, plugins: Plugins) -> None:
    hidden = (*SHORT, "tasks.0.dataset.hide_images=true")
    expected = run_experiment(experiment(world, plugins, *hidden, "features.residency=workers"), plugins=plugins)
    for place in ("host", "device"):
        options = (f"features.residency={place}", "train.workers=1")
        found = run_experiment(experiment(world, plugins, *hidden, *options, runs_root=place), plugins=plugins)
        assert losses(found) == losses(expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [("features.residency=device", "features.residency=workers"), ("train.workers=2", "train.workers=1")],
    ids=["elsewhere", "workers that had read ahead"],
)
def test_a_run_goes_on_wherever_its_batches_come_from(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins, *SHORT, before), plugins=plugins)
    found = run_experiment(experiment(world, plugins, *SHORT, after), plugins=plugins, continues=True)
    expected = run_experiment(experiment(world, plugins, *SHORT, runs_root="unbroken"), plugins=plugins)
    assert losses(found) == losses(expected)


def test_where_features_are_is_no_part_of_a_recipe() -> None:
    assert not is_recipe("features.residency")
    assert is_recipe("train.group_by_length")


def test_what_is_read_without_features_has_all_the_rest(ragged: RegionFeatureStore) -> None:
    ids = ["c", "a", "c", "b"]
    whole, outline = ragged.read(ids), ragged.outline(ids)
    assert outline.features.shape == whole.features.shape
    assert outline.features.dtype == whole.features.dtype
    assert not outline.features.any()
    assert set(outline.features.strides) == {0}, "it takes no memory"
    for name in ("boxes", "mask", "sizes"):
        assert (getattr(outline, name) == getattr(whole, name)).all()
    assert ragged.num_regions(ids).tolist() == [COUNTS[image_id] for image_id in ids]
    ragged.touch(ids)


@pytest.mark.parametrize("num_regions", [2, 5, 7])
def test_features_are_cut_and_padded_as_encoders_do_it(ragged: RegionFeatureStore, num_regions: int) -> None:
    ids = ["b", "c", "b", "a"]
    expected = fit_regions(ragged.read(ids).features, num_regions)
    into = np.full((4, num_regions, WIDTH), np.nan, np.float16)
    ragged.read_features(ids, into)
    assert (into == expected).all()

    table = FeatureTable(ragged, ["a", "b", "c"], CPU, silent)
    rows = table.rows(ids, num_regions)
    assert rows is not None
    assert (table.features[rows].numpy() == expected).all()
    stand_in = fit_regions(ragged.outline(ids).features, num_regions)
    assert stand_in.shape == expected.shape
    assert set(stand_in.strides) == {0}


def outlined(store: RegionFeatureStore, ids: Sequence[str], num_regions: int) -> OutlinedBatch:
    encoding = Encoding(
        token_ids=torch.zeros(len(ids), 1, dtype=torch.int64),
        text_mask=torch.ones(len(ids), 1, dtype=torch.bool),
        region_features=torch.empty(len(ids), num_regions, 0, dtype=torch.float16),
        boxes=torch.zeros(len(ids), num_regions, 4),
        region_mask=torch.ones(len(ids), num_regions, dtype=torch.bool),
    )
    return OutlinedBatch(tuple(ids), encoding, {}, tuple(ids), store.file)


def test_an_image_that_nobody_expected_is_read_from_the_store(ragged: RegionFeatureStore) -> None:
    residency = Residency("device", "", {ragged: ["a", "b"]})
    residency.load(silent)
    found = residency.complete(outlined(ragged, ["c", "a"], 5))
    assert (found.encoding.region_features.numpy() == ragged.read(["c", "a"]).features).all()
    with pytest.raises(DataError, match="image 'd' has no region features"):
        residency.complete(outlined(ragged, ["d"], 5))


@pytest.mark.parametrize("residency", ["host", "device"])
def test_the_loader_ends_with_the_error_of_a_batch_and_whenever_it_is_left(world: Path, residency: Any) -> None:
    config = DatasetConfig(name="toys", annotations=world, features=world, evaluate=["val"])
    store = RegionFeatureStore(world / "data" / "toys.lmdb")
    maker = BatchMaker(toy.ToyTask(), toy.ToyDataset(config, "train"), store, toy.ToyEncoder(None), seed=3)
    place = Residency(residency, "", {store: store.image_ids()}, workers=1)
    place.load(silent)
    outline_if_possible("match", maker, [(0, 0), (0, 1)], place)
    loader = BatchLoader(maker, workers=1, residency=place)
    addresses = [[(0, position)] for position in range(20)]
    for batch, _ in zip(loader.batches(addresses), range(2), strict=False):
        assert isinstance(batch, RowBatch) == (residency == "device")
    whole = [on_device(batch, CPU) for batch in loader.batches(addresses)]
    assert [batch.ids for batch in whole] == [(f"train-{position}",) for position in range(20)]

    class Damaged(toy.ToyDataset):
        def __getitem__(self, index: int) -> Example[int]:
            if index == 3:
                raise DataError("line 3 is damaged")
            return super().__getitem__(index)

    maker.dataset = Damaged(config, "train")
    loader.restart()
    made = loader.batches(addresses)
    assert [next(made).ids for _ in range(3)] == [("train-0",), ("train-1",), ("train-2",)]
    with pytest.raises(DataError, match="line 3 is damaged"):
        next(made)


def test_loading_tells_how_far_it_is(ragged: RegionFeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlrun.data.residency._TOUCHED_AT_ONCE", 2)
    told: list[tuple[str, int, int]] = []
    FeatureTable(ragged, ["c", "b", "a"], CPU, lambda *progress: told.append(progress))
    assert told == [("loading region features", 2, 3), ("loading region features", 3, 3)]


def test_features_that_do_not_fit_say_what_helps(ragged: RegionFeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Tensor:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ConfigError, match=r"8e-08 GB of features do not fit .* use features.residency=host"):
        FeatureTable(ragged, ["a", "b", "c"], CPU, silent)


def test_memory_of_a_batch_is_used_again_when_the_batch_is_gone() -> None:
    buffers, dtype = Buffers(), np.dtype(np.float16)
    first = torch.from_numpy(buffers.take((2, 3), dtype))
    place = first.data_ptr()
    part = first[1:]
    del first
    second = buffers.take((2, 3), dtype)
    assert second.ctypes.data != place, "a part of it is still in use"
    del part
    smaller = torch.from_numpy(buffers.take((1, 3), dtype))
    assert smaller.data_ptr() == place
    del smaller, second
    assert buffers.take((9, 9), dtype).shape == (9, 9)
    assert len(buffers._blocks) == 1, "those that are too small are let go"


GB = 10**9


@pytest.mark.parametrize(
    ("wanted", "device", "host", "trains", "place", "why"),
    [
        ("auto", 40 * GB, 100 * GB, True, "device", "18 GB of the 40 GB that its memory has free"),
        ("auto", 30 * GB, 100 * GB, True, "host", "18 GB of the 100 GB that the memory has room for"),
        ("auto", 140 * GB, 100 * GB, False, "host", "18 GB of the 100 GB that the memory has room for"),
        ("auto", None, 100 * GB, True, "host", "18 GB of the 100 GB that the memory has room for"),
        ("auto", None, 20 * GB, True, "workers", "18 GB are too much for 20 GB of memory"),
        ("auto", None, None, True, "workers", "18 GB are too much for an unknown amount of memory"),
        ("device", None, None, True, "device", "18 GB, as features.residency says"),
        ("workers", 140 * GB, 100 * GB, True, "workers", "18 GB, as features.residency says"),
    ],
)
def test_features_go_where_there_is_room(
    wanted: str, device: int | None, host: int | None, trains: bool, place: str, why: str
) -> None:
    assert choose_place(wanted, 18 * GB, device, host, trains=trains) == (place, why)


def test_the_part_that_is_needed_counts(ragged: RegionFeatureStore) -> None:
    size = ragged.file.stat().st_size
    assert bytes_needed({ragged: ["a", "b", "c"]}) == size
    assert bytes_needed({ragged: ["a"]}) == size // 3
