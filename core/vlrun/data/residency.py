"""Where region features are while a run works, and how batches that were made without them get theirs."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlrun.errors import ConfigError, DataError
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.tensors import Batch, Encoding

Place = Literal["device", "host", "workers"]
Progress = Callable[[str, int, int], None]

_CPU = torch.device("cpu")
_SHARE_OF_DEVICE = 0.5  # gradients, moments and activations come later
_SHARE_OF_HOST = 0.8
_TOUCHED_AT_ONCE = 256


@dataclass(frozen=True)
class OutlinedBatch(Batch):
    """A batch whose region features have not been read: they are 0 wide, (P, R, 0).

    Attributes:
        image_ids: the image of each pair.
        file: the store with its features.
    """

    image_ids: tuple[str, ...]
    file: Path


@dataclass(frozen=True)
class RowBatch(Batch):
    """A batch whose region features are rows of a table on the device; its encoding has them 0 wide, (P, R, 0).

    Attributes:
        rows: (P, R) int64.
    """

    rows: Tensor
    table: FeatureTable

    def filled(self, encoding: Encoding, rows: Tensor) -> Encoding:
        """The encoding with its region features; both arguments are on the device."""
        return replace(encoding, region_features=self.table.gathered(rows))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device, with the region features that are there already."""
    moved = batch.to(device)
    if isinstance(moved, RowBatch):
        return Batch(moved.ids, moved.filled(moved.encoding, moved.rows), moved.targets)
    return moved


def encoding_on_device(batch: Batch, device: torch.device) -> Encoding:
    """What ``on_device`` has as encoding, for those that need no targets there."""
    encoding = batch.encoding.to(device)
    return batch.filled(encoding, batch.rows.to(device)) if isinstance(batch, RowBatch) else encoding


class FeatureTable:
    """The features of some images as one tensor on a device, region after region, and a row of zeros at the end."""

    def __init__(
        self, store: RegionFeatureStore, image_ids: Collection[str], device: torch.device, progress: Progress
    ) -> None:
        """Reads them from the store, in its order.

        Raises:
            ConfigError: they do not fit into the memory of the device.
            DataError: an image has no features, or its record is damaged.
        """
        ids = sorted(image_ids)
        counts = store.num_regions(ids)
        ends = np.cumsum(counts)
        total, width = int(ends[-1]), store.manifest.feature_width
        self._places = dict(zip(ids, zip((ends - counts).tolist(), counts.tolist(), strict=True), strict=True))
        self._zeros = total
        try:
            self.features = torch.empty((total + 1, width), dtype=_torch_type(store), device=device)
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"features.residency: {_gigabytes((total + 1) * width * store.dtype.itemsize)} of features do not fit "
                "into the memory of the GPU; use features.residency=host"
            ) from error
        self.features[total].zero_()
        for first in range(0, len(ids), _TOUCHED_AT_ONCE):
            last = min(first + _TOUCHED_AT_ONCE, len(ids))
            begin, end = int(ends[first] - counts[first]), int(ends[last - 1])
            part = np.empty((end - begin, width), store.dtype)
            for image_id in ids[first:last]:
                start, count = self._places[image_id]
                store.read_features([image_id], part[None, start - begin : start - begin + count])
            self.features[begin:end] = torch.from_numpy(part)
            progress("loading region features", last, len(ids))
        if device.type == "cuda":  # other streams will read it
            torch.cuda.synchronize(device)

    def rows(self, image_ids: Sequence[str], num_regions: int) -> Tensor | None:
        """The rows of the first ``num_regions`` regions of each image, (P, R) int64; None if an image is not here."""
        places = [self._places.get(image_id) for image_id in image_ids]
        known = np.array([place for place in places if place is not None], np.int64).reshape(-1, 2)
        if len(known) < len(places):
            return None
        numbers = np.arange(num_regions)
        return torch.from_numpy(np.where(numbers < known[:, 1:], known[:, :1] + numbers, self._zeros))

    def gathered(self, rows: Tensor) -> Tensor:
        """The features at these rows, (P, R) -> (P, R, D), on the device; on a CPU indexing takes twice as long."""
        return self.features.index_select(0, rows.flatten()).view(*rows.shape, -1)


class Residency:
    """The place of a run's region features.

    Attributes:
        place, why: for the header.
        kept_with_workers: task -> why its features come from workers all the same.
    """

    def __init__(
        self,
        place: Place = "workers",
        why: str = "",
        needed: Mapping[RegionFeatureStore, Collection[str]] = MappingProxyType({}),
        *,
        device: torch.device = _CPU,
        workers: int = 0,
    ) -> None:
        """Reads nothing yet.

        Args:
            needed: the images of each store that the run needs.
            device: of this process.
            workers: of this process.
        """
        self.place, self.why, self.device = place, why, device
        self.kept_with_workers: dict[str, str] = {}
        self._needed, self._workers = needed, workers
        self._stores = {store.file: store for store in needed}
        self._tables: dict[Path, FeatureTable] = {}
        self._buffers = Buffers()

    @property
    def outlines(self) -> bool:
        """Whether batches are made without features; without workers this process may as well read them at once.

        Features of a batch that a worker sends would go through shared memory, whose pages the system makes anew for
        each batch: that takes several times as long as reading them here.
        """
        return self.place == "device" or self._workers > 0

    def load(self, progress: Progress) -> None:
        """Loads the tables of the device; where that is not the place, or it is done, does nothing.

        Raises:
            ConfigError: they do not fit into its memory.
            DataError: an image has no features, or its record is damaged.
        """
        if self.place == "device" and not self._tables:
            for store, image_ids in self._needed.items():
                self._tables[store.file] = FeatureTable(store, image_ids, self.device, progress)
            self._needed = {}

    def touch(self) -> None:
        """Begins to read the features into the memory of the host, beside what else goes on; for one process of it."""
        if self.place == "host" and self._needed:
            threading.Thread(target=_touch, args=(self._needed,), name="features").start()
            self._needed = {}

    def complete(self, batch: Batch) -> Batch:
        """The batch with its features, or with the rows that they have on the device.

        Raises:
            DataError: an image has no features, or its record is damaged.
        """
        if not isinstance(batch, OutlinedBatch):
            return batch
        table = self._tables.get(batch.file)
        rows = None if table is None else table.rows(batch.image_ids, batch.encoding.region_features.shape[1])
        if table is not None and rows is not None:
            rows = rows.pin_memory() if self.device.type == "cuda" else rows
            return RowBatch(batch.ids, batch.encoding, batch.targets, rows, table)
        return self.read(batch)

    def read(self, batch: OutlinedBatch) -> Batch:
        """The batch with its features on the host, read from the store; as for ``complete``."""
        num_pairs, num_regions, _ = batch.encoding.region_features.shape
        store = self._stores[batch.file]
        shape = (num_pairs, num_regions, store.manifest.feature_width)
        if self.device.type == "cuda":  # torch keeps pinned memory for the next batch
            features = torch.empty(shape, dtype=_torch_type(store), pin_memory=True)
        else:
            features = torch.from_numpy(self._buffers.take(shape, store.dtype))
        store.read_features(batch.image_ids, features.numpy())
        return Batch(batch.ids, replace(batch.encoding, region_features=features), batch.targets)


class Buffers:
    """Memory for batches that is used again: fresh memory takes longer to come by than features take to copy."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array whose content is whatever was there; others get its memory when nothing refers to it any more."""
        size = math.prod(shape) * dtype.itemsize
        is_free = [count == _WHEN_FREE for count in _references(self._blocks)]
        fitting = next((at for at, free in enumerate(is_free) if free and self._blocks[at].nbytes >= size), None)
        if fitting is None:  # what is free is too small, and goes
            self._blocks = [block for block, free in zip(self._blocks, is_free, strict=True) if not free]
            fitting = len(self._blocks)
            self._blocks.append(np.empty(size, np.uint8))
        return self._blocks[fitting][:size].view(dtype).reshape(shape)


def _references(blocks: list[NDArray[np.uint8]]) -> list[int]:
    """How many references there are to each: a view of a block, and a tensor made of that, count as one."""
    return [sys.getrefcount(block) for block in blocks]


_WHEN_FREE = _references([np.empty(0, np.uint8)])[0]


def choose_place(
    wanted: str, needed: int, free_on_device: int | None, available: int | None, *, trains: bool = True
) -> tuple[Place, str]:
    """The place for ``needed`` bytes of features, and why.

    Args:
        wanted: ``features.residency``.
        free_on_device: bytes; None where the device is no accelerator with memory of its own.
        available: bytes on the host; None where they are not known.
        trains: an evaluation reads each image once, so that loading it to the device first gains nothing.
    """
    size = _gigabytes(needed)
    if wanted in ("device", "host", "workers"):
        place: Place = wanted  # type: ignore[assignment]
        return place, f"{size}, as features.residency says"
    if trains and free_on_device is not None and needed <= _SHARE_OF_DEVICE * free_on_device:
        return "device", f"{size} of the {_gigabytes(free_on_device)} that its memory has free"
    if available is not None and needed <= _SHARE_OF_HOST * available:
        return "host", f"{size} of the {_gigabytes(available)} that the memory has room for"
    room = "an unknown amount of memory" if available is None else f"{_gigabytes(available)} of memory"
    return "workers", f"{size} are too much for {room}"


def bytes_needed(needed: Mapping[RegionFeatureStore, Collection[str]]) -> int:
    """Bytes of the features of these images: by the mean size of a record, so that none has to be read."""
    return sum(store.file.stat().st_size * len(image_ids) // max(1, len(store)) for store, image_ids in needed.items())


def _touch(needed: Mapping[RegionFeatureStore, Collection[str]]) -> None:
    with suppress(DataError):  # whoever reads a damaged record in earnest says so
        for store, image_ids in needed.items():
            ids = sorted(image_ids)
            for first in range(0, len(ids), _TOUCHED_AT_ONCE):
                if not threading.main_thread().is_alive():
                    return
                store.touch(ids[first : first + _TOUCHED_AT_ONCE])


def _torch_type(store: RegionFeatureStore) -> torch.dtype:
    return torch.from_numpy(np.empty(0, store.dtype)).dtype


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
