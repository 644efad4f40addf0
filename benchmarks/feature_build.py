"""How fast `runner features build` makes a store of npz files of both kinds, and how much memory of its own it holds.

python benchmarks/feature_build.py [--images 20000] [--against FOLDER]

Images per second, and per second of processor time, which a busy machine changes less; and the most memory of its own
that it held, at a tenth of the images and at all. Each build is a process of its own; with --against another checkout
takes turns. How fast a store is read is told by ``runner bench EXPERIMENT --only features``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vlrun.features.build import build_store
from vlrun.interfaces.examples import RegionFeatures
from vlrun.plugins.builtin import vlrun_feature_formats
from vlrun.runs.bench.memory import anonymous_bytes

REGIONS, WIDTH = 36, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="how many (0.15 MB of disk each)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--build-one", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build_one:
        print(json.dumps(build_one(*arguments.build_one)))
        return
    trees = [Path(__file__).resolve().parents[1], *([arguments.against] if arguments.against else [])]
    print(f"{'checkout':<20} {'files':<17} {'images':>7} {'per second':>11} {'per core s':>11} {'own memory':>11}")
    for row in measure_building(arguments.images, arguments.rounds, trees):
        print(row, flush=True)


def measure_building(num_images: int, num_rounds: int, trees: Sequence[Path]) -> Iterator[str]:
    """A row for each kind of files and checkout: the best of rounds in which these take turns; of memory the most."""
    drawn = [image(number) for number in range(16)]
    for save, count in ((np.savez, num_images // 10), (np.savez, num_images), (np.savez_compressed, num_images // 10)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "npz"
            folder.mkdir()
            for number in range(count):
                file, regions = folder / f"COCO_val2014_{number:012d}.npz", drawn[number % len(drawn)]
                if number < len(drawn):
                    size = {"image_h": regions.height, "image_w": regions.width}
                    save(file, x=regions.features, bbox=regions.boxes, **size)
                else:  # the same content again takes no disk
                    os.link(folder / f"COCO_val2014_{number % len(drawn):012d}.npz", file)
            found: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
            for _ in range(num_rounds):
                for tree in trees:
                    command = [sys.executable, __file__, "--build-one", str(folder), str(Path(name) / "store")]
                    environment = {**os.environ, "PYTHONPATH": f"{tree / 'core'}:{os.environ.get('PYTHONPATH', '')}"}
                    done = subprocess.run(command, env=environment, check=True, capture_output=True)
                    found[tree].append(json.loads(done.stdout))
                    shutil.rmtree(Path(name) / "store")
        for tree, runs in found.items():
            rates = [count / min(run[clock] for run in runs) for clock in ("wall", "processor")]
            memory = max(run["own_memory"] for run in runs) / 2**20
            yield (
                f"{tree.name:<20} {save.__name__:<17} {count:>7,} {rates[0]:>11,.0f} {rates[1]:>11,.0f} "
                f"{memory:>7,.0f} MiB"
            )


def build_one(folder: Path, out: Path) -> dict[str, float]:
    """Builds one store in this process; seconds of both clocks, and the most bytes of memory of its own."""
    import torch

    torch.zeros(1).half()  # whoever builds a large store pays for loading it once
    npz = next(found for found in vlrun_feature_formats() if found.name == "npz")
    most = 0

    def look(what: str, done: int, total: int | None) -> None:
        nonlocal most
        if done % 256 == 0:
            most = max(most, anonymous_bytes("self"))

    wall, processor = time.perf_counter(), time.process_time()
    build_store([folder], out, npz, progress=look)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"wall": wall, "processor": processor, "own_memory": max(most, anonymous_bytes("self"))}


def image(number: int) -> RegionFeatures:
    rng = np.random.default_rng(number)
    features = np.maximum(rng.standard_normal((REGIONS, WIDTH), np.float32), 0)  # real ones are about 40 % zeros
    boxes = np.tile(np.array([10, 20, 300, 400], np.float32), (REGIONS, 1))
    return RegionFeatures(f"COCO_val2014_{number:012d}", features, boxes, 480, 640)


if __name__ == "__main__":
    main()
