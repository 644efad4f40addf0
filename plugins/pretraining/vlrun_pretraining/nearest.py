"""The images most like each image, by their mean region feature: hard mismatches. Our choice for LXMERT-S's ITM_HS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vlrun import DataError, RegionFeatureStore
from vlrun.files import atomic_write

_BLOCK = 1024  # images read, and rows of the table computed, at a time


def nearest_images(features: Path, image_ids: Sequence[str], count: int) -> NDArray[np.int32]:
    """Positions in ``image_ids`` of the ``count`` images most like each one, most like first, (images, count).

    Like means a large cosine between mean region features.
    After ViLBERT's ``script/generate_pool.py``. The table depends on the features and the images alone. It is kept in a
    file beside the store, if that folder can be written, so that it is computed once: 120,000 images take some minutes.

    Raises:
        DataError: there are no other images, or features are missing.
    """
    if len(image_ids) < 2:
        raise DataError("there is one image alone, so none is near it")
    count = min(count, len(image_ids) - 1)
    path = _cache_path(features, image_ids, count)
    if path.is_file():
        table = np.load(path, allow_pickle=False)
        if table.shape == (len(image_ids), count):
            return table
    table = _computed(RegionFeatureStore(features), image_ids, count)
    try:
        with atomic_write(path, "wb") as file:
            np.save(file, table, allow_pickle=False)
    except OSError:
        pass  # a read-only store: the next start computes it again
    return table


def _computed(store: RegionFeatureStore, image_ids: Sequence[str], count: int) -> NDArray[np.int32]:
    means = np.concatenate([_means(store, image_ids[at : at + _BLOCK]) for at in range(0, len(image_ids), _BLOCK)])
    rows = torch.from_numpy(means)
    table = np.empty((len(rows), count), np.int32)
    for at in range(0, len(rows), _BLOCK):
        likeness = rows[at : at + _BLOCK] @ rows.T
        own = torch.arange(len(likeness))
        likeness[own, own + at] = -torch.inf
        table[at : at + _BLOCK] = likeness.topk(count, dim=1).indices.numpy()
    return table


def _means(store: RegionFeatureStore, image_ids: Sequence[str]) -> NDArray[np.float32]:
    """(N, D) mean region features, of length 1."""
    batch = store.read(image_ids)
    sums = (batch.features.astype(np.float32) * batch.mask[..., None]).sum(axis=1)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _cache_path(features: Path, image_ids: Sequence[str], count: int) -> Path:
    store = RegionFeatureStore(features)
    status = store.file.stat()
    address = f"{status.st_size} {status.st_mtime_ns} {count}\n" + "\n".join(image_ids)
    return store.file.parent / f"nearest-{hashlib.sha256(address.encode()).hexdigest()[:16]}.npy"
