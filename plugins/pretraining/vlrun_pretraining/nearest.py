"""The images most like each image, by their mean region feature: hard mismatches. Our choice for LXMERT-S's ITM_HS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vlrun import DataError, RegionFeatureStore
from vlrun.files import atomic_write, read_arrays

_READ = 256  # images read at a time
_BLOCK = 1024  # rows of the table computed at a time
_SPARE = 16  # candidates more than are wanted
_EXACT = 32  # of these, rows whose candidates are compared exactly at a time
_DIGITS = 9  # of a cosine; closer ones are alike, and the first image comes first


def nearest_images(features: Path, image_ids: Sequence[str], count: int) -> NDArray[np.int32]:
    """Positions in ``image_ids`` of the ``count`` images most like each one, most like first, (images, count).

    Like means a large cosine between mean region features, after ViLBERT's ``script/generate_pool.py``. The table
    depends on the features and the images alone, and not on the number of threads. It is kept in a file beside the
    store, if that folder can be written, so that it is computed once: 120,000 images take two cores ten minutes.

    Raises:
        DataError: there are no other images, or features are missing.
    """
    if len(image_ids) < 2:
        raise DataError("there is one image alone, so none is near it")
    count = min(count, len(image_ids) - 1)
    path = _cache_path(features, image_ids, count)
    if (kept := _kept(path, (len(image_ids), count))) is not None:
        return kept
    table = _computed(RegionFeatureStore(features), image_ids, count)
    try:
        with atomic_write(path, "wb") as file:
            np.savez(file, table=table)  # an archive has checksums
    except OSError:
        pass  # a read-only store: the next start computes it again
    return table


def _kept(path: Path, shape: tuple[int, int]) -> NDArray[np.int32] | None:
    """The table in a file; None without one that is whole."""
    try:
        table: NDArray[np.int32] = read_arrays(path, ["table"])["table"]
    except (FileNotFoundError, DataError):
        return None
    is_whole = table.shape == shape and table.dtype == np.int32 and table.min() >= 0 and table.max() < len(table)
    return table if is_whole else None


def _computed(store: RegionFeatureStore, image_ids: Sequence[str], count: int) -> NDArray[np.int32]:
    """Finds candidates by float32 products, whose last bits depend on the machine, and compares these exactly."""
    parts = [_means(store, image_ids[at : at + _READ]) for at in range(0, len(image_ids), _READ)]
    rows = torch.from_numpy(np.concatenate(parts))
    candidates = min(count + _SPARE, len(rows) - 1)
    table = np.empty((len(rows), count), np.int32)
    for at in range(0, len(rows), _BLOCK):
        likeness = rows[at : at + _BLOCK] @ rows.T
        own = torch.arange(len(likeness))
        likeness[own, own + at] = -torch.inf
        found = likeness.topk(candidates, dim=1).indices.sort(dim=1).values
        for start in range(0, len(found), _EXACT):
            near = found[start : start + _EXACT]
            first = at + start
            exact = rows[near].double() @ rows[first : first + len(near)].double().unsqueeze(-1)
            order = exact.squeeze(-1).round(decimals=_DIGITS).sort(dim=1, descending=True, stable=True).indices
            table[first : first + len(near)] = near.gather(1, order[:, :count]).numpy()
    return table


def _means(store: RegionFeatureStore, image_ids: Sequence[str]) -> NDArray[np.float32]:
    """(N, D) mean region features, of length 1."""
    batch = store.read(image_ids)
    sums = (batch.features * batch.mask[..., None]).sum(axis=1, dtype=np.float64)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _cache_path(features: Path, image_ids: Sequence[str], count: int) -> Path:
    store = RegionFeatureStore(features)
    status = store.file.stat()
    address = f"{status.st_size} {status.st_mtime_ns} {count}\n" + "\n".join(image_ids)
    return store.file.parent / f"nearest-{hashlib.sha256(address.encode()).hexdigest()[:16]}.npz"
