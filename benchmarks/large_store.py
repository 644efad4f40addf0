"""What a store larger than fits comfortably asks for: memory while it is built, verified and read by several processes.

python benchmarks/large_store.py [--gigabytes 3] [--workers 2] [--folder FOLDER]

Memory is what processes hold for themselves (``Anonymous`` in /proc/PID/smaps_rollup), summed over the main process and
its children, which count again what they share with it: pages of the file are the system's, which takes them back when
it needs them. Linux only. The images come again and again from a few files, so that only the store takes disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from vlrun.features.build import build_store
from vlrun.features.store import RegionFeatureStore
from vlrun.features.verify import verify_store
from vlrun.plugins.builtin import vlrun_feature_formats

sys.path.insert(0, str(Path(__file__).parent))
from feature_build import REGIONS, WIDTH, image

BATCH = 256
IMAGE_BYTES = REGIONS * (WIDTH * 2 + 16)
BATCHES = 100
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the store is made (default: the system's temporary folder)")
    arguments = parser.parse_args()
    count = round(arguments.gigabytes * 1e9 / IMAGE_BYTES)
    npz = next(found for found in vlrun_feature_formats() if found.name == "npz")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        out = Path(name) / "store"
        write_sources(Path(name) / "npz", count)
        watched("build", count, lambda: build_store([Path(name) / "npz"], out, npz))
        size = (out / "data.mdb").stat().st_size
        print(f"{count:,} images, {size / 1e9:.2f} GB, {size / (count * IMAGE_BYTES):.3f} of what they hold")
        assert watched("verify", count, lambda: verify_store(out)).is_sound
        watched("read here", BATCHES * BATCH, lambda: read(out, 0))
        workers = arguments.workers
        watched(f"read by {workers}", workers * BATCHES * BATCH, lambda: read_all(out, workers))


def write_sources(folder: Path, count: int) -> None:
    folder.mkdir()
    names = [folder / f"COCO_val2014_{number:012d}.npz" for number in range(count)]
    for number, name in enumerate(names):
        if number < 16:
            regions = image(number)
            np.savez(name, x=regions.features, bbox=regions.boxes, image_h=regions.height, image_w=regions.width)
        else:
            os.link(names[number % 16], name)


def read(out: Path, seed: int) -> None:
    """Batches of images in random order, as a loader's worker gathers them."""
    store = RegionFeatureStore(out)
    ids = store.image_ids()
    rng = np.random.default_rng(seed)
    for _ in range(BATCHES):
        batch = store.read([ids[number] for number in rng.choice(len(ids), BATCH, replace=False)])
        assert batch.features.shape == (BATCH, REGIONS, WIDTH)


def read_all(out: Path, workers: int) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=read, args=(out, seed)) for seed in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def watched(what: str, images: int, work: Callable[[], Result]) -> Result:
    """Prints how fast ``work`` was and the most memory that it took."""
    most, done, before = 0, threading.Event(), anonymous()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.2):
            most = max(most, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        return work()
    finally:
        seconds = time.perf_counter() - begin
        done.set()
        watcher.join()
        print(
            f"{what:<12} {images / seconds:>9,.0f} images/s   before {before / 2**20:>5,.0f} MiB   "
            f"at most {most / 2**20:>5,.0f} MiB",
            flush=True,
        )


def anonymous() -> int:
    """Bytes that this process and its children hold for themselves."""
    return sum(held(process) for process in ("self", *children()))


def children() -> Iterator[str]:
    for thread in Path("/proc/self/task").iterdir():
        try:
            yield from (thread / "children").read_text().split()
        except OSError:  # the thread has ended
            continue


def held(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("Anonymous:")))
    except (OSError, StopIteration):  # it has ended
        return 0


if __name__ == "__main__":
    main()
