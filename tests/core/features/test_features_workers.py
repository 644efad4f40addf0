"""Loader workers: py-lmdb refuses to open a path twice in a process, to pickle a handle, and more."""

from __future__ import annotations

import multiprocessing

import pytest
from torch.utils.data import DataLoader, StackDataset

from vlrun import RegionFeatureStore

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_two_datasets_share_a_store_in_workers_for_three_epochs(store_path, method):
    store, same = RegionFeatureStore(store_path), RegionFeatureStore(store_path / "data.mdb")
    ids = store.image_ids()
    expected = [float(store[image_id].features.sum()) for image_id in ids]  # the parent has the file open from here on
    loader = DataLoader(
        StackDataset(vqa=store, rec=same),
        sampler=ids,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    for _ in range(3):
        seen = list(loader)
        assert [item["vqa"].image_id for item in seen] == [item["rec"].image_id for item in seen] == ids
        assert [float(item["vqa"].features.sum()) for item in seen] == expected
        assert [float(item["rec"].features.sum()) for item in seen] == expected
    assert [float(store[image_id].features.sum()) for image_id in ids] == expected


@pytest.mark.parametrize("method", METHODS)
def test_processes_of_a_pool_read_batches(store_path, method):
    store = RegionFeatureStore(store_path)
    ids = store.image_ids()
    expected = float(store.read(ids).features.sum())
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert {float(batch.features.sum()) for batch in pool.map(store.read, [ids] * 8)} == {expected}
