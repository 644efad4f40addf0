"""How fast region features come from a store, beside the files that the papers' programs read; how batches are made."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlrun.data.loading import BatchLoader, RegionReader
from vlrun.data.residency import FeatureTable, OutlinedBatch, Residency
from vlrun.engine.run import TaskRun
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.examples import RegionBatch
from vlrun.interfaces.measurement import Measurement
from vlrun.interfaces.tensors import Encoding
from vlrun.runs.bench.clock import by_turns, timed

TSV = "TSV, seek and base64"
NPZ = "npz per image"
_BATCH = 64
_MOST_IMAGES = 256  # 290 kB each as npz, 390 kB as TSV
_WORKER_BATCHES = 32


def feature_rows(task_run: TaskRun, folder: Path, device: torch.device, rounds: int) -> Iterator[Measurement]:
    """Images per second: random batches of 64 images of the experiment, put together, from a warm page cache.

    Args:
        folder: receives the same images in the papers' formats.
    """
    maker = task_run.train or next(iter(task_run.splits.values()))
    ids = list(islice(dict.fromkeys(maker.dataset.image_ids()), _MOST_IMAGES))
    drawn = random.Random(0)  # noqa: S311 - which images are read
    batches = cycle([drawn.sample(range(len(ids)), min(_BATCH, len(ids))) for _ in range(64)])
    size = min(_BATCH, len(ids))
    store = task_run.store
    assert isinstance(store, RegionFeatureStore)
    tsv, npz = _tsv_reader(store, ids, folder), _npz_reader(store, ids, folder)
    table = FeatureTable(store, ids, device, lambda what, done, total: None)
    num_regions = store.manifest.max_regions

    def gathered(chosen: Sequence[int]) -> torch.Tensor:
        rows = table.rows([ids[row] for row in chosen], num_regions)
        assert rows is not None
        return table.gathered(rows.to(device))

    ways: dict[str, Callable[[], object]] = {
        TSV: lambda: tsv(next(batches)),
        NPZ: lambda: npz(next(batches)),
        "store, in this process": lambda: store.read([ids[row] for row in next(batches)]),
        f"resident on {device.type}, gathered by index": lambda: gathered(next(batches)),
    }
    rates = {name: size / seconds for name, seconds in by_turns(ways, rounds, device).items()}
    rates["store, through one loader worker"] = _worker_rate(store, [ids[row] for row in next(batches)])
    for name, rate in rates.items():
        ratios = {} if name in (TSV, NPZ) else {other: rate / rates[other] for other in (TSV, NPZ)}
        yield Measurement("features", name, rate, "images/s", ratios)


def batch_rows(task_run: TaskRun, batch_size: int, rounds: int) -> Iterator[Measurement]:
    """How fast the parts of a batch are made in one process, without reading features."""
    maker = task_run.train or next(iter(task_run.splits.values()))
    addresses = [(0, position % len(maker)) for position in range(batch_size)]
    examples, pairs = maker.pairs(addresses)
    regions = maker.regions(pairs)
    flat = [pair for own_pairs in pairs for pair in own_pairs]
    encoding = maker.encode(flat, regions)
    ways: dict[str, Callable[[], object]] = {
        "encode": lambda: maker.encode(flat, regions),
        "collate": lambda: maker.task.collate(examples, regions, encoding),
        "whole": lambda: maker.__getitems__(addresses),
    }
    seconds = by_turns(ways, rounds, torch.device("cpu"))
    yield Measurement("batches", "tokenising, and boxes", len(flat) / seconds["encode"], "pairs/s")
    yield Measurement("batches", "collating targets", len(examples) / seconds["collate"], "examples/s")
    yield Measurement("batches", "whole batches, with features", len(flat) / seconds["whole"], "pairs/s")


class _Reads:
    """Reads batches of regions in a loader worker, and gives them on as a batch is given on."""

    def __init__(self, store: RegionFeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 1

    def __getitems__(self, image_ids: Sequence[str]) -> OutlinedBatch:
        regions = self.store.outline(image_ids)
        self.store.touch(image_ids)
        boxes, mask = torch.from_numpy(regions.boxes), torch.from_numpy(regions.mask)
        nothing, features = mask[:, :0], boxes[..., :0].clone()
        encoding = Encoding(nothing.long(), nothing, features, boxes, mask)
        return OutlinedBatch(tuple(image_ids), encoding, {}, regions.image_ids, self.store.file)


def _worker_rate(store: RegionFeatureStore, ids: Sequence[str]) -> float:
    maker: Any = _Reads(store)
    loader = BatchLoader(maker, workers=1, residency=Residency("workers", "", {store: ids}, workers=1))

    def work() -> None:
        for _ in loader.batches([list(ids)] * _WORKER_BATCHES):
            pass

    work()  # starts the worker
    return len(ids) * _WORKER_BATCHES / timed(work, torch.device("cpu")).wall


def _rows(regions: RegionBatch) -> Iterator[tuple[str, Any, Any, Any]]:
    for row, image_id in enumerate(regions.image_ids):
        real = regions.mask[row]
        yield image_id, regions.features[row][real].astype(np.float32), regions.boxes[row][real], regions.sizes[row]


def _npz_reader(store: RegionReader, ids: Sequence[str], folder: Path) -> Callable[[Sequence[int]], object]:
    for number, (_, features, boxes, _) in enumerate(_rows(store.read(ids))):
        np.savez(folder / f"{number}.npz", x=features, bbox=boxes)

    def read(rows: Sequence[int]) -> object:
        loaded = [np.load(folder / f"{row}.npz") for row in rows]
        return _padded([arrays["x"] for arrays in loaded]), _padded([arrays["bbox"] for arrays in loaded])

    return read


def _tsv_reader(store: RegionReader, ids: Sequence[str], folder: Path) -> Callable[[Sequence[int]], object]:
    path, offsets = folder / "imgfeat.tsv", [0]
    with path.open("wb") as table:
        for image_id, features, boxes, (height, width) in _rows(store.read(ids)):
            cells = [
                image_id,
                base64.b64encode(features.tobytes()).decode(),
                *(str(int(number)) for number in (height, width, len(boxes))),
                base64.b64encode(boxes.tobytes()).decode(),
            ]
            offsets.append(offsets[-1] + table.write("\t".join(cells).encode() + b"\n"))

    def read(rows: Sequence[int]) -> object:
        features, boxes = [], []
        with path.open("rb") as table:
            for row in rows:
                table.seek(offsets[row])
                cells = table.readline().split(b"\t")
                count = int(cells[4])
                features.append(np.frombuffer(base64.b64decode(cells[1]), np.float32).reshape(count, -1))
                boxes.append(np.frombuffer(base64.b64decode(cells[5]), np.float32).reshape(count, 4))
        return _padded(features), _padded(boxes)

    return read


def _padded(arrays: Sequence[Any]) -> Any:
    """(P, R, D) of P arrays (any number up to R, D), with zeros."""
    longest = max(map(len, arrays))
    if all(len(array) == longest for array in arrays):
        return np.stack(arrays)
    out = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), np.float32)
    for row, array in enumerate(arrays):
        out[row, : len(array)] = array
    return out
