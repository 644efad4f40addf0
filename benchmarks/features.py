"""How fast region features come from disk: the store against one npz per image and ROSITA's TSV, in one run.

python benchmarks/features.py [--images 1024] [--json]
python benchmarks/features.py --build [--images 20000] [--against FOLDER]

All ways deliver the same, but for the one without features: random batches of 64 images with 36 regions of 2048
features, gathered into one array, from a warm page cache, in one process. The rounds of all ways alternate, so that a
busy machine slows them alike; the ratios to the baseline are what to look at. What workers deliver: feeding.py.

With --build: how fast `runner features build` makes a store of npz files of both kinds, as images per second and as
images per second of processor time, which a busy machine changes less; and the most memory of its own that it held, at
a tenth of the images and at all. Each build is a process of its own; with --against another checkout takes turns.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vlrun.features.build import build_store
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store
from vlrun.interfaces.examples import RegionFeatures
from vlrun.plugins.builtin import vlrun_feature_formats

REGIONS, WIDTH, BATCH = 36, 2048, 64
BASELINE = "npz per image (float32, not compressed)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="how many (0.9 MB of disk each; with --build 0.15)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build", action="store_true", help="measure building instead of reading")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="with --build: another checkout")
    parser.add_argument("--build-one", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build_one:
        print(json.dumps(build_one(*arguments.build_one)))
        return
    if arguments.build:
        trees = [Path(__file__).resolve().parents[1], *([arguments.against] if arguments.against else [])]
        print(f"{'checkout':<20} {'files':<17} {'images':>7} {'per second':>11} {'per core s':>11} {'own memory':>11}")
        for row in measure_building(arguments.images, arguments.rounds, trees):
            print(row, flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(prepare(Path(folder), arguments.images), arguments.images, arguments.rounds)
    rows = [{"way": way, "images_per_second": rate, "ratio": rate / rates[BASELINE]} for way, rate in rates.items()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'way':<50} {'images/s':>10} {'ratio':>8}")
    for row in rows:
        print(f"{row['way']:<50} {row['images_per_second']:>10,.0f} {row['ratio']:>7.1f}x")


def prepare(folder: Path, num_images: int) -> dict[str, Callable[[Sequence[int]], object]]:
    """Writes the same images in every layout; returns a batch reader for each, the baseline first."""
    import torch

    from vlrun.data.residency import FeatureTable  # not in checkouts that --against compares with

    images = [image(number) for number in range(num_images)]
    ids = [regions.image_id for regions in images]
    write_store(folder / "half", images)
    write_store(folder / "single", images, dtype="float32")
    offsets = [0]
    with (folder / "imgfeat.tsv").open("wb") as table:
        for regions in images:
            np.savez(folder / f"{regions.image_id}.npz", x=regions.features, boxes=regions.boxes)
            offsets.append(offsets[-1] + table.write(tsv_row(regions)))
    half, single = RegionFeatureStore(folder / "half"), RegionFeatureStore(folder / "single")
    spare = np.empty((BATCH, REGIONS, WIDTH), np.float16)
    table = FeatureTable(half, ids, torch.device("cpu"), lambda what, done, total: None)
    gathered = torch.empty(BATCH * REGIONS, WIDTH, dtype=torch.float16)
    rows = (folder / "imgfeat.tsv").open("rb")

    def read_npz(batch: Sequence[int]) -> object:
        loaded = [np.load(folder / f"{ids[number]}.npz") for number in batch]
        return np.stack([arrays["x"] for arrays in loaded]), np.stack([arrays["boxes"] for arrays in loaded])

    def read_tsv(batch: Sequence[int]) -> object:
        cells = []
        for number in batch:
            rows.seek(offsets[number])
            cells.append(rows.readline().split(b"\t"))
        features = [np.frombuffer(base64.b64decode(row[1]), np.float32).reshape(-1, WIDTH) for row in cells]
        return np.stack(features), np.stack([np.frombuffer(base64.b64decode(row[5]), np.float32) for row in cells])

    def gather(batch: Sequence[int]) -> object:
        numbers = table.rows([ids[number] for number in batch], REGIONS)
        assert numbers is not None
        return torch.index_select(table.features, 0, numbers.flatten(), out=gathered)

    return {
        BASELINE: read_npz,
        "ROSITA TSV, seek and base64": read_tsv,
        "store float16, read(batch)": lambda batch: half.read([ids[number] for number in batch]),
        "store float32, read(batch)": lambda batch: single.read([ids[number] for number in batch]),
        "store float16, into memory that is there": lambda batch: half.read_features(
            [ids[number] for number in batch], spare
        ),
        "store float16, boxes without features": lambda batch: half.outline([ids[number] for number in batch]),
        "rows of a table in memory": gather,
        "store float16, one image at a time": lambda batch: [half[ids[number]] for number in batch],
        "store float16, read and cast to float32 by numpy": lambda batch: half.read(
            [ids[number] for number in batch]
        ).features.astype(np.float32),
    }


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
            most = max(most, own_memory())

    wall, processor = time.perf_counter(), time.process_time()
    build_store([folder], out, npz, progress=look)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"wall": wall, "processor": processor, "own_memory": max(most, own_memory())}


def own_memory() -> int:
    """Bytes that are not files mapped into memory, which the system takes back when it needs them."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


def image(number: int) -> RegionFeatures:
    rng = np.random.default_rng(number)
    features = np.maximum(rng.standard_normal((REGIONS, WIDTH), np.float32), 0)  # real ones are about 40 % zeros
    boxes = np.tile(np.array([10, 20, 300, 400], np.float32), (REGIONS, 1))
    return RegionFeatures(f"COCO_val2014_{number:012d}", features, boxes, 480, 640)


def tsv_row(regions: RegionFeatures) -> bytes:
    features, boxes = (base64.b64encode(array.tobytes()) for array in (regions.features, regions.boxes))
    name = f"{regions.image_id}.jpg".encode()
    return b"\t".join([name, features, b"480", b"640", b"36", boxes, b"", b"", b"", b""]) + b"\n"


def measure(
    readers: dict[str, Callable[[Sequence[int]], object]], num_images: int, num_rounds: int
) -> dict[str, float]:
    """Median images/s of each reader over rounds of at least a quarter of a second."""
    rng = np.random.default_rng(0)
    rounds: dict[str, list[float]] = {way: [] for way in readers}
    for number in range(num_rounds + 1):
        for way, reader in readers.items():
            begin, count = time.perf_counter(), 0
            while (seconds := time.perf_counter() - begin) < 0.25:
                reader(rng.choice(num_images, BATCH, replace=False).tolist())
                count += BATCH
            if number:  # the first round warms up
                rounds[way].append(count / seconds)
        print(f"round {number} of {num_rounds}", file=sys.stderr)
    return {way: statistics.median(rates) for way, rates in rounds.items()}


if __name__ == "__main__":
    main()
