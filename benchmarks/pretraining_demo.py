"""What pre-training adds to the demos: fine-tuned from nothing, from random masking, and from masking by knowledge.

python benchmarks/pretraining_demo.py [--seeds 1 2 3] [--epochs 3] [--output runs/pretraining_demo] [--json FILE]

For each seed, ROSITA's pre-training runs on the demo world twice, with its own masking and with words and regions
masked at random (where regions are also classified and weighed as LXMERT does it), all else alike. RefCOCO+ and VQA are
then fine-tuned for a few epochs, fewer than their demos take, for those end near what is possible anyway; zero-shot
retrieval is scored as it is. Runs that are finished are not run again, and others go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vlrun.files import write_json
from vlrun.reporting.tables import TextTable, print_table

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
MASKINGS = {
    "random masking": ["tasks.0.masking={name: random, words: 0.3, regions: 0.15}"],
    "masking by knowledge": [],
}
NOTHING = "nothing"
FINE_TUNED = {"rosita_refcoco+": ("testA", "testB"), "rosita_vqa": ("minival",)}
ZERO_SHOT = "rosita_zero_shot_flickr"
Result = dict[str, Any]


def run(experiment: str, folder: Path, overrides: Sequence[str]) -> Path:
    """The folder of a finished demo run under ``folder``, which is made unless it is there.

    Zero-shot retrieval may refuse to score all pairs, where a sample is matched no better than by chance. Then its
    folder has no result.
    """
    done = folder / "done"
    if not done.is_file():
        command = [sys.executable, "-m", "vlrun", "run", str(EXPERIMENTS / f"{experiment}.yaml"), "--demo"]
        status = subprocess.run([*command, "--output", str(folder), "--resume", *overrides], check=False).returncode
        if status and experiment != ZERO_SHOT:
            sys.exit(f"{experiment} has failed with status {status}; repeat the command when that is mended")
        done.touch()
    (latest,) = folder.glob("*/latest")
    return latest.resolve()


def weights_of(pretrained: Path) -> Path:
    """The exported weights of a pre-training, with its matching head."""
    path = pretrained.parent / "weights.safetensors"
    if not path.is_file():
        subprocess.run([sys.executable, "-m", "vlrun", "weights", "export", str(pretrained), str(path)], check=True)
    return path


def results(folder: Path) -> Iterator[Result]:
    """The final scores of a run."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return (row for row in rows if row["kind"] == "result" and row["final"])


def measured(output: Path, seeds: Sequence[int], epochs: int) -> Iterator[Result]:
    """Each score of each start and seed."""
    for seed in seeds:
        starts: dict[str, list[str]] = {NOTHING: []}
        for name, masking in MASKINGS.items():
            folder = output / f"pretrained {name} {seed}".replace(" ", "_")
            pretrained = run("rosita_pretrain", folder, [f"seed={seed}", *masking])
            starts[name] = [f"backbone.weights={weights_of(pretrained)}"]
            yield from ({"start": name, "seed": seed, "pretraining": True, **row} for row in results(pretrained))
        for name, weights in starts.items():
            for experiment in (*FINE_TUNED, *([ZERO_SHOT] if weights else [])):
                folder = output / f"{experiment} {name} {seed}".replace(" ", "_")
                length = [f"train.epochs={epochs}"] if experiment in FINE_TUNED else []
                done = run(experiment, folder, [f"seed={seed}", *weights, *length])
                yield from ({"start": name, "seed": seed, "pretraining": False, **row} for row in results(done))


def table(rows: Sequence[Result], *, pretraining: bool) -> TextTable:
    """Mean and deviation over the seeds; a column for each start."""
    starts = [*MASKINGS] if pretraining else [NOTHING, *MASKINGS]
    chosen = [row for row in rows if row["pretraining"] is pretraining and not row.get("detail")]
    names = dict.fromkeys((row["task"], row["split"], row["name"]) for row in chosen)
    lines = []
    for name in names:
        cells = []
        for start in starts:
            values = [
                row["value"]
                for row in chosen
                if row["start"] == start and (row["task"], row["split"], row["name"]) == name
            ]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            seeds = {row["seed"] for row in rows if row["start"] == start}
            few = f" ({len(values)} of {len(seeds)})" if len(values) < len(seeds) else ""
            cells.append(f"{fmean(values):.2f}{spread}{few}" if values else "-")
        lines.append([" ".join(name), *cells])
    return TextTable(["score", *starts], lines, starts)


def main() -> None:
    """Runs everything and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--output", type=Path, default=Path("runs/pretraining_demo"))
    parser.add_argument("--json", type=Path, help="file for every score of every run")
    arguments = parser.parse_args()
    rows = list(measured(arguments.output, arguments.seeds, arguments.epochs))
    if arguments.json:
        write_json(arguments.json, rows)
    for pretraining in (True, False):
        print_table(table(rows, pretraining=pretraining))


if __name__ == "__main__":
    main()
