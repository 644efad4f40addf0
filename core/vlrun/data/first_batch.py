"""A look at the first batch: it finds inputs that raise no error but from which nothing can be learned."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlrun.data.loading import Address, BatchMaker
from vlrun.data.residency import Residency
from vlrun.errors import first_few
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.examples import RegionBatch
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch

_EDGE_PIXELS = 1.0  # detectors round; a box may end one pixel outside
_LOOKED_AT = 32  # examples
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's loader workers put their batches
HELD_BY_A_WORKER = 3
"""Batches that a loader worker holds at most: two that torch has it make ahead, and the one in hand."""


def batch_problems(pair_ids: Sequence[str], texts: Sequence[str], regions: RegionBatch, batch: Batch) -> list[str]:
    """Problems of a batch of P pairs, each with the ids that show it; empty if there are none.

    ``pair_ids`` are the example ids of the pairs, ``texts`` their texts.
    """
    encoding = batch.encoding
    real = regions.mask
    padding_only = ~encoding.text_mask.any(dim=1).numpy()
    no_text_at_all = np.full(len(texts), not any(text.strip() for text in texts))  # a single text may be empty
    findings = [
        ("region features are NaN or infinite", regions.image_ids, _rows_with(~np.isfinite(regions.features), real)),
        ("region features are all equal", regions.image_ids, _constant(regions.features, real)),
        ("boxes are NaN or infinite", regions.image_ids, _rows_with(~np.isfinite(regions.boxes), real)),
        ("boxes are all equal", regions.image_ids, _constant(regions.boxes, real)),
        ("boxes lie outside their image", regions.image_ids, _outside(regions)),
        ("there are no regions (empty region mask)", regions.image_ids, ~encoding.region_mask.any(dim=1).numpy()),
        ("the text is empty or all padding", pair_ids, padding_only | no_text_at_all),
    ]
    return [f"{what}: {_listed(ids, rows)}" for what, ids, rows in findings if rows.any()]


def outline_if_possible(name: str, maker: BatchMaker, addresses: Sequence[Address], residency: Residency) -> None:
    """Lets a maker leave the region features out of its batches if that gives the same batches in the end.

    Args:
        name: of the task.
        addresses: of a batch, of which a few examples are looked at.

    Raises:
        DataError: the data are wrong.
    """
    if not residency.outlines or not addresses or maker.outlines is not None:
        return
    reason = _against_outlines(maker, addresses[:_LOOKED_AT], residency)
    if reason:
        residency.kept_with_workers[name] = reason
    maker.outlines, maker.touches = not reason, residency.place == "workers"


def _against_outlines(maker: BatchMaker, addresses: Sequence[Address], residency: Residency) -> str:
    if type(maker.task).mask is not Task.mask:
        return "the task masks them"
    if maker.hides_images or not isinstance(maker.store, RegionFeatureStore):
        return "none are read"
    examples, pairs = maker.pairs(addresses)
    expected = maker.batch(addresses, examples, pairs, maker.regions(pairs))
    try:
        found = maker.outlined(examples, pairs)
    except Exception:  # whatever a plugin raises when it gets features that are 0 wide
        return "the task or the backbone needs them to make a batch"
    encoding = {**vars(expected.encoding), "region_features": None}
    if not _same(encoding, {**vars(found.encoding), "region_features": None}):
        return "the backbone reads them before the network does"
    if not _same(expected.targets, found.targets):
        return "the task makes targets of them"
    features = residency.read(found).encoding.region_features
    return "" if torch.equal(features, expected.encoding.region_features) else "the backbone changes them"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the fields of two batches are equal: tensors, in which NaN is equal to NaN, flags, or None."""
    return one.keys() == other.keys() and all(
        torch.equal(mine.nan_to_num(), theirs.nan_to_num())
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor)
        else mine is theirs
        for mine, theirs in ((one[key], other[key]) for key in one)
    )


def batch_bytes(batch: Batch) -> int:
    """Bytes of all tensors of a batch."""
    return sum(tensor.nbytes for tensor in _tensors(batch))


def shared_memory_problem(
    batch: Batch, workers: int, processes: int = 1, option: str = "train.batch_size"
) -> str | None:
    """Why batches of this size do not fit into shared memory; None if they do or no worker is used.

    Args:
        workers: of each process.
        processes: of the run on this machine, which share the memory.
        option: what sets the size of the batch.
    """
    if not workers or not _SHARED_MEMORY.is_dir():
        return None
    workers *= processes
    needed = workers * HELD_BY_A_WORKER * batch_bytes(batch)
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed <= free:
        return None
    return (
        f"train.workers: {workers} workers hold up to {needed / 2**20:.0f} MiB of batches in {_SHARED_MEMORY}, "
        f"which has {free / 2**20:.0f} MiB free. Lower train.workers or {option} (train.workers=0 needs none), "
        "or give the container more shared memory (docker: --shm-size)"
    )


def _tensors(batch: Batch) -> Iterator[np.ndarray]:
    fields = (*vars(batch.encoding).values(), *batch.targets.values())
    return (value.numpy() for value in fields if isinstance(value, Tensor))


def _rows_with(claim: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.asarray((claim.any(axis=-1) & real).any(axis=-1))


def _constant(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Rows with more than one real region, all of them equal."""
    same_as_first = (values == values[:, :1]).all(axis=-1) | ~real
    return np.asarray(same_as_first.all(axis=-1) & (real.sum(axis=-1) > 1))


def _outside(regions: RegionBatch) -> np.ndarray:
    height, width = regions.sizes[:, :1], regions.sizes[:, 1:]
    x1, y1, x2, y2 = (regions.boxes[..., corner] for corner in range(4))
    outside = (np.minimum(x1, y1) < -_EDGE_PIXELS) | (x2 > width + _EDGE_PIXELS) | (y2 > height + _EDGE_PIXELS)
    return np.asarray(((outside | (x2 < x1) | (y2 < y1)) & regions.mask).any(axis=-1))


def _listed(ids: Iterable[str], rows: np.ndarray, most: int = 5) -> str:
    bad_ids = list(dict.fromkeys(name for name, is_bad in zip(ids, rows, strict=True) if is_bad))
    return ", ".join(first_few(bad_ids, most))
