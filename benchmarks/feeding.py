"""How fast batches reach a step, how long a step waits for them, and what that takes of memory.

python benchmarks/feeding.py [--images 1024] [--workers 1 2]          images/s of each way, without a model
python benchmarks/feeding.py --step [--batch 8 32] [--steps 4]        share of a ROSITA base step spent waiting
python benchmarks/feeding.py --memory [--images 68000] [--json FILE]  own memory of all processes, from a 10 GB store
python benchmarks/feeding.py --padding TEXTS [--vocabulary FILE]      what train.group_by_length saves, a text a line

A batch is 64 pairs of a text and an image with 36 regions of 2048 features in float16, made as in training: text to
word pieces, boxes to shares, features gathered, and read once, as a copy to an accelerator would. The rounds of all
ways alternate, so that a busy machine slows all alike; trust ratios, and rates per second of processor time.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlrun import Batch, Dataset, Encoding, Example, RegionBatch, RegionFeatures, RegionFeatureStore, Task
from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun.config.optimisation import AdamConfig
from vlrun.data.first_batch import outline_if_possible
from vlrun.data.loading import BatchLoader, BatchMaker, TrainingPlan
from vlrun.data.order import LengthGroups
from vlrun.data.residency import Residency, on_device
from vlrun.engine.host_memory import keep_freed_memory
from vlrun.engine.optimisers import adam
from vlrun.engine.step_window import StepWindow
from vlrun.features.writer import write_store
from vlrun.files import write_json
from vlrun.interfaces.measurement import Measurement
from vlrun.runs.bench.record import Case, Record, machine_facts
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import Rosita

REGIONS, WIDTH, BATCH = 36, 2048, 64
CPU = torch.device("cpu")
TRAINING = "training"
KINDS = ("Pss_Anon", "Pss_Shmem", "Pss_File")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="images in the store (0.15 MB of disk each)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--step", action="store_true", help="measure waiting")
    parser.add_argument("--memory", action="store_true", help="measure memory")
    parser.add_argument(
        "--size", default="base", choices=("base", "tiny"), help="of the network of --step and --memory"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures of --memory to a file")
    parser.add_argument("--padding", type=Path, metavar="TEXTS", help="measure padding in these texts")
    parser.add_argument("--vocabulary", type=Path, help="vocab.txt for --padding; without it words count")
    arguments = parser.parse_args()
    if arguments.padding:
        measure_padding(arguments.padding.read_text(encoding="utf-8").splitlines(), arguments.vocabulary)
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store"
        builder = multiprocessing.Process(target=random_store, args=(path, arguments.images))  # what it holds goes
        builder.start()
        builder.join()
        store = RegionFeatureStore(path)
        vocabulary = Path(name) / "vocab.txt"
        words = [f"{first}{second}" for first in LETTERS for second in LETTERS]
        vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *words]) + "\n", encoding="utf-8")
        if arguments.step:
            measure_waiting(store, vocabulary, arguments)
        elif arguments.memory:
            rows = list(measure_memory(store, vocabulary, arguments))
            if arguments.json:
                facts = {"name": "feeding", "backbone": "rosita", "workers": max(arguments.workers)}
                write_json(arguments.json, Record(facts, machine_facts(CPU), [Case(rows)]).as_json())
        else:
            measure_rates(store, vocabulary, arguments.workers, arguments.rounds)


class Captions(Dataset[None]):
    """Texts of 6 to 16 words, each with an image."""

    def __init__(self, image_ids: Sequence[str]) -> None:
        self.split, self.protocol, self.ids = "train", {}, image_ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example[None]:
        words = [f"{LETTERS[(index + at) % 26]}{LETTERS[(index * at) % 26]}" for at in range(6 + index % 11)]
        return Example(str(index), " ".join(words), (self.ids[index],))


class Nothing(Task[None]):
    """A task without targets."""

    def collate(self, examples: Sequence[Example[None]], regions: RegionBatch, encoding: Encoding) -> dict[str, Tensor]:
        return {}

    def _unused(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    build_head = loss = loss_counts = predict = metrics = _unused


class Feed:
    """Batches as training has them, with features from one place."""

    def __init__(self, store: RegionFeatureStore, vocabulary: Path, place: str, workers: int, batch: int) -> None:
        config = RositaConfig(name="rosita", vocabulary=vocabulary, size="tiny", region_feature_size=WIDTH)
        dataset = Captions(store.image_ids())
        self.plan = TrainingPlan(len(dataset), batch, seed=0)
        encode = Rosita.from_config(config).pair_encoder(20)
        maker = BatchMaker(Nothing(), dataset, store, encode, seed=0, plan=self.plan)
        self.residency = Residency(place, "", {store: store.image_ids()}, workers=workers)  # type: ignore[arg-type]
        outline_if_possible("captions", maker, self.plan.batches(0, 0)[0], self.residency)
        assert not self.residency.kept_with_workers
        self.residency.load(lambda what, done, total: None)
        self.loader = BatchLoader(maker, workers=workers, residency=self.residency)

    def batches(self) -> Iterator[Batch]:
        steps = (divmod(step, self.plan.steps_per_epoch) for step in itertools.count())
        return self.loader.batches(self.plan.batches(*step)[0] for step in steps)


def measure_rates(store: RegionFeatureStore, vocabulary: Path, workers: Sequence[int], rounds: int) -> None:
    ways = {("workers", 0): "in process, as it is read"}
    ways |= {("workers", count): f"{count} worker(s), which send features" for count in workers}
    ways |= {("host", count): f"{count} worker(s), features gathered beside" for count in workers}
    ways[("device", 0)] = "in process, features on the device (here the CPU)"
    feeds = {way: Feed(store, vocabulary, *way, BATCH) for way in ways}
    streams = {way: feed.batches() for way, feed in feeds.items()}
    spare = torch.empty(BATCH, REGIONS, WIDTH, dtype=torch.float16)
    rates: dict[Any, list[float]] = {way: [] for way in [*ways, "into memory that is there"]}

    def read_alone() -> int:
        ids = random.sample(store.image_ids(), BATCH)
        store.read_features(ids, spare.numpy())
        return BATCH

    def next_batch(stream: Iterator[Batch]) -> int:
        spare.copy_(on_device(next(stream), CPU).encoding.region_features)
        return BATCH

    for number in range(rounds + 1):
        for way, found in rates.items():
            begin, done = time.perf_counter(), 0
            while (seconds := time.perf_counter() - begin) < 0.7:
                done += next_batch(streams[way]) if way in streams else read_alone()
            if number:  # the first round starts the workers
                found.append(done / seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    print(f"{'features':<52} {'images/s':>10}")
    for way, found in rates.items():
        print(f"{ways.get(way, way):<52} {statistics.median(found):>10,.0f}")


class Training:
    """A training step of ROSITA: forward and backward pass, and Adam."""

    def __init__(self, vocabulary: Path, size: str) -> None:
        config = RositaConfig(name="rosita", vocabulary=vocabulary, size=size, region_feature_size=WIDTH)  # type: ignore[arg-type]
        self.model = Rosita.from_config(config)
        self.optimizer = adam(AdamConfig(), [{"params": list(self.model.parameters()), "lr": 0.0}])

    def step(self, batch: Batch) -> None:
        made = on_device(batch, CPU)
        self.model(made.encoding).pooled.square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_waiting(store: RegionFeatureStore, vocabulary: Path, options: argparse.Namespace) -> None:
    torch.set_num_threads(2)
    training, workers, steps = Training(vocabulary, options.size), max(options.workers), options.steps
    print(f"{'features':<12} {'batch':>6} {'workers':>8} {'s a step':>9} {'waiting':>8}")
    for batch, place in itertools.product(options.batch, ("workers", "host", "device")):
        window = StepWindow(None, None, 1, 1)  # type: ignore[arg-type]
        stream = window.timed(Feed(store, vocabulary, place, workers, batch).batches())
        for number in range(steps + 1):
            if number == 1:  # the first starts the workers
                window.restart()
            training.step(next(stream))
        seconds = time.perf_counter() - window.started
        print(f"{place:<12} {batch:>6} {workers:>8} {seconds / steps:>9.2f} {window.waited / seconds:>8.2%}")


def measure_memory(store: RegionFeatureStore, vocabulary: Path, options: argparse.Namespace) -> Iterator[Measurement]:
    workers = max(options.workers)
    print(f"a store of {store.file.stat().st_size / 1e9:.1f} GB, {workers} workers; MiB of all processes together")
    print(f"{'features':<12} {'work':<10} {'images/s':>10} {'own':>8} {'shared memory':>14} {'file pages':>11}")
    for place, work in (("workers", "an epoch"), ("host", "an epoch"), ("workers", TRAINING), ("host", TRAINING)):
        result = multiprocessing.SimpleQueue()
        inputs = (place, work, store, vocabulary, options, result)
        process = multiprocessing.Process(target=measure_memory_of, args=inputs)
        process.start()
        process.join()
        rate, sizes = result.get()
        shown = " ".join(f"{size:>{width},.0f}" for size, width in zip([rate, *sizes], (10, 8, 14, 11), strict=True))
        print(f"{place:<12} {work:<10} {shown}", flush=True)
        note = f"{workers} workers, a store of {store.file.stat().st_size / 1e9:.1f} GB"
        yield Measurement("memory", f"anonymous, {work} from {place}", sizes[0], "MiB", note=note)


def measure_memory_of(
    place: str, work: str, store: RegionFeatureStore, vocabulary: Path, options: argparse.Namespace, result: Any
) -> None:
    """One epoch, or some steps of training, in a process of its own."""
    if work == TRAINING:
        torch.set_num_threads(2)
        keep_freed_memory()
        training, batch_size, every = Training(vocabulary, options.size), options.batch[0], 1
    else:
        training, batch_size, every = None, BATCH, 20
    feed = Feed(store, vocabulary, place, max(options.workers), batch_size)
    count = options.steps if training else feed.plan.steps_per_epoch
    begin, done = time.perf_counter(), 0
    most: dict[str, int] = {}
    for batch in itertools.islice(feed.batches(), count):
        if training:
            training.step(batch)
        else:
            float(batch.encoding.region_features.sum(dtype=torch.float32))
        done += 1
        if done % every == 0:
            used = memory_of_all()
            most = {name: max(most.get(name, 0), used[name]) for name in used}
    rate = batch_size * done / (time.perf_counter() - begin)
    result.put((rate, [most[kind] / 1024 for kind in KINDS]))


def memory_of_all() -> Mapping[str, int]:
    """kB of this process and its children together, by kind; what several of them have mapped counts once."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    total = dict.fromkeys(KINDS, 0)
    for process in [str(own), *children]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0])
    return total


def measure_padding(texts: Sequence[str], vocabulary: Path | None) -> None:
    if vocabulary is None:
        lengths = np.array([len(text.split()) + 2 for text in texts], np.int32)
    else:
        lengths = WordPiece(vocabulary).encode_batch(list(texts), 40, round_to=4)[1].sum(1).astype(np.int32)
    print(f"{len(texts):,} texts of {lengths.mean():.1f} tokens; mean length of padded batches, and what is real of it")
    print(f"{'batch':>6} {'as they come':>16} {'group_by_length=16':>20} {'=64':>16}")
    for batch in (8, 32, 256):
        cells = []
        for groups in (None, LengthGroups(lengths, 16), LengthGroups(lengths, 64)):
            plan = TrainingPlan(len(texts), batch, seed=0, groups=groups)
            made = [lengths[list(plan.global_batch(0, step))] for step in range(plan.steps_per_epoch)]
            longest = np.array([-(-int(of_batch.max()) // 4) * 4 for of_batch in made])
            real = sum(int(of_batch.sum()) for of_batch in made) / (batch * longest.sum())
            cells.append(f"{longest.mean():.1f} {real:.0%}")
        print(f"{batch:>6} {cells[0]:>16} {cells[1]:>20} {cells[2]:>16}")


def random_store(path: Path, num_images: int) -> None:
    """A store whose images share a few sets of features, which the file holds again for each."""
    rng = np.random.default_rng(0)
    drawn = [np.maximum(rng.standard_normal((REGIONS, WIDTH), np.float32), 0).astype(np.float16) for _ in range(16)]
    boxes = np.tile(np.array([10, 20, 300, 400], np.float32), (REGIONS, 1))
    write_store(
        path,
        (RegionFeatures(f"image{number:08d}", drawn[number % 16], boxes, 480, 640) for number in range(num_images)),
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    main()
