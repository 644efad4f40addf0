"""Measures one experiment for each backbone with ``runner bench``, and shows its figures beside what they should be.

python benchmarks/aims.py [--steps 3] [--quick] [--json benchmarks/results/bench.json]
python benchmarks/aims.py --show FILE [FILE ...]

Every figure of every run is written to one JSON file, also when a run fails or is interrupted. --show makes the table
of files that are there, those of ``runner bench --json`` too. A ratio names its baseline, which was measured by turns
in the same process; rates alone depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrun.files import write_json
from vlrun.reporting.tables import TextTable, print_table
from vlrun.runs.bench.record import shown_value

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "bench.json"
BASELINES = HERE / "baselines"
PAPER, TRANSFORMERS, PLAIN = "the paper's way, fp32", "transformers' LxmertModel, fp32", "plain loop, fp32"
BARE = "python with argparse, pluggy and importlib.metadata"
FULL, HALF = "4,8,32,64", "8,32"
TOLD = (  # figures that are shown of a GPU, whatever they are
    ("step", "examples"),
    ("step", "model FLOP utilisation"),
    ("step", "of the measured peak"),
    ("step", "waiting, in a row"),
    ("step", "the whole training"),
    ("memory", "device, peak of tensors"),
    ("retrieval", "pairs"),
    ("retrieval", "all pairs of COCO's 5k test split"),
)
STEP = ("--only", "step", "--against", str(BASELINES))
Record = dict[str, Any]
Row = dict[str, Any]

RUNS: tuple[tuple[str, ...], ...] = (
    ("rosita_vqa", "--batch", FULL, *STEP),
    ("rosita_vqa", "--batch", HALF, "--precision", "bf16", *STEP),
    ("lxmert_s_vqa", "--batch", FULL, *STEP),
    ("lxmert_s_vqa", "--batch", HALF, "--precision", "bf16", *STEP),
    ("lxmert_vqa", "--batch", FULL, *STEP),
    ("lxmert_vqa", "--batch", HALF, "--precision", "bf16", *STEP),
    ("rosita_vqa", "--batch", "8", "--only", "step", "train.workers=2"),
    ("lxmert_pretrain", "--batch", HALF, "--only", "step", "train.workers=0"),
    ("rosita_itr_flickr", "--only", "start-up,features"),
    ("rosita_itr_flickr", "--only", "task", "--precision", "fp32,bf16"),
    ("lxmert_s_ir", "--only", "task", "--precision", "fp32,bf16"),
    ("lxmert_retrieval_flickr", "--only", "task", "--precision", "fp32,bf16"),
)
"""Experiments, and what of each is measured, on embedded data."""
LARGE_STORE = ("--memory", "--images", "68000", "--batch", "8", "--steps", "8")
"""Of feeding.py: a store of 10 GB, in the system's temporary folder."""


@dataclass(frozen=True)
class Aim:
    """What a figure should be.

    Attributes:
        backbone, batch, precision, workers, device, experiment: of the rows that it is about; None: of any.
        baseline: the ratio to it is meant; empty: the value.
        is_most: whether the figure should be this at most, instead of at least.
    """

    part: str
    what: str
    number: float
    baseline: str = ""
    backbone: str | None = None
    batches: Sequence[int] | None = None
    precision: str | None = None
    workers: int | None = None
    device: str = "cpu"
    experiment: str | None = None
    is_most: bool = False

    def rows(self, records: Sequence[Record]) -> Iterator[tuple[Record, Row]]:
        """The rows that it is about."""
        for record in records:
            about = record["experiment"]
            is_meant = (
                record["machine"]["device"] == self.device
                and self.backbone in (None, about["backbone"])
                and self.workers in (None, about["workers"])
                and self.experiment in (None, about["name"])
            )
            for row in record["rows"] if is_meant else ():
                if (
                    (row["part"], row["what"]) == (self.part, self.what)
                    and (self.batches is None or row["batch"] in self.batches)
                    and self.precision in (None, row["precision"])
                    and (not self.baseline or self.baseline in row["ratios"])
                ):
                    yield record, row


def _aims() -> Iterator[Aim]:
    leads = {"rosita": 1.87, "lxmert-s": 2.95, "lxmert": 1.78}
    for part in ("step", "processor time"):  # by the clock, and as if nothing else was going on
        for backbone, lead in leads.items():
            yield Aim(part, "examples", lead, PAPER, backbone, (4, 8, 32, 64), "fp32")
        for backbone in leads:
            yield Aim(part, "examples", 4.0, PAPER, backbone, (8,), "bf16")
            yield Aim(part, "examples", 5.0, PAPER, backbone, (32,), "bf16")
        yield Aim(part, "examples", 1.15, TRANSFORMERS, "lxmert", (4, 8, 32, 64), "fp32")
        yield Aim(part, "of the matmul-limited rate", 95.0, precision="fp32", workers=0)
    yield Aim("step", "waiting, in a row", 2.0, workers=2, is_most=True)
    # items that are made in the process itself: reading, tokenising, masking, targets
    yield Aim("step", "waiting, in a row", 10.0, workers=0, experiment="lxmert_pretrain", is_most=True)
    yield Aim("retrieval", "pairs", 2.5, PLAIN, "rosita", None, "fp32")
    yield Aim("retrieval", "pairs", 8.0, PLAIN, "rosita", None, "bf16")
    yield Aim("features", "store, in this process", 20_000)
    yield Aim("features", "store, through one loader worker", 10_000)
    for place in ("workers", "host"):
        yield Aim("memory", f"anonymous, training from {place}", 3e9 / 2**20, workers=2, is_most=True)
    yield Aim("start-up", "runner list-plugins", 3.0, BARE, is_most=True)
    yield Aim("step", "model FLOP utilisation", 45.0, precision="bf16", device="cuda")
    yield Aim("step", "waiting, in a row", 2.0, device="cuda", is_most=True)
    yield Aim("retrieval", "all pairs of COCO's 5k test split", 2.0, precision="bf16", device="cuda", is_most=True)


AIMS = tuple(_aims())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try out the tool: no figures to quote")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="measure nothing, show these files")
    arguments = parser.parse_args()
    records: list[Record] = []
    failed = 0
    if arguments.show:
        records = [record for file in arguments.show for record in read(file)]
    else:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        for number, run in enumerate([*RUNS, LARGE_STORE]):
            print(f"{number + 1} of {len(RUNS) + 1}: {' '.join(run)}", file=sys.stderr, flush=True)
            record = fed(arguments.quick) if run is LARGE_STORE else measured(run, arguments.steps, arguments.quick)
            failed += record is None
            records += [record] if record else []
            write_json(arguments.json, {"runs": records})
        print(f"all figures: {arguments.json}", file=sys.stderr)
    print_table(table(records))
    sys.exit(failed > 0)


def read(file: Path) -> list[Record]:
    """The records in a file of this program, or the one in a file of ``runner bench``."""
    content = json.loads(file.read_text())
    return [{"label": file.stem, **record} for record in content.get("runs", [content])]


def measured(run: Sequence[str], steps: int, quick: bool) -> Record | None:
    """The record of a run; None if it failed, which it has said itself."""
    experiment, *words = run
    small = ["backbone.size=tiny"] if quick else []
    path = HERE.parent / "experiments" / f"{experiment}.yaml"
    command = ["-m", "vlrun", "bench", str(path), "--demo", *words, *small, "--steps", str(steps)]
    return _record(experiment, command)


def fed(quick: bool) -> Record | None:
    """The record of feeding.py, likewise."""
    small = ["--images", "2000", "--size", "tiny"] if quick else []
    return _record("feeding", [str(HERE / "feeding.py"), *LARGE_STORE, *small])


def _record(label: str, command: Sequence[str]) -> Record | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        done = subprocess.run([sys.executable, *command, "--json", file], stdout=subprocess.DEVNULL, check=False)
        return None if done.returncode else {"label": label, **json.loads(file.read_text())}


def table(records: Sequence[Record]) -> TextTable:
    """A line for every figure that should be something, then for other ratios, and for what is told of a GPU."""
    lines, told = [], set()
    for aim in AIMS:
        for record, row in aim.rows(records):
            told.add((id(row), aim.baseline))
            value = row["ratios"][aim.baseline] if aim.baseline else row["value"]
            is_reached = value <= aim.number if aim.is_most else value >= aim.number
            wanted = f"{'at most' if aim.is_most else 'at least'} {aim.number:,g}"
            lines.append([*_cells(record, row, aim.baseline), wanted, "yes" if is_reached else "no"])
    for record in records:
        for row in record["rows"]:
            figures = [*row["ratios"]] if row["part"] in ("step", "retrieval") else []
            if record["machine"]["device"] == "cuda" and (row["part"], row["what"]) in TOLD:
                figures.append("")
            lines += [[*_cells(record, row, name), "", ""] for name in figures if (id(row), name) not in told]
    machines = {", ".join(f"{name} {value}" for name, value in record["machine"].items()): None for record in records}
    dates = sorted(record["date"] for record in records)
    when = [f"measured from {dates[0]} to {dates[-1]}"] if dates else []
    headers = ("run", "figure", "batch", "measured", "aim", "reached")
    return TextTable(headers, lines, numeric=("measured",), footnotes=[*machines, *when])


def _cells(record: Record, row: Row, baseline: str) -> list[str]:
    value, unit = (row["ratios"][baseline], "x") if baseline else (row["value"], row["unit"])
    figure = f"{row['part']}: {row['what']}" + (f", beside {baseline}" if baseline else "")
    case = ", ".join(str(row[name]) for name in ("batch", "precision") if row[name] is not None)
    return [record["label"], figure, case, f"{shown_value(value)} {unit}"]


if __name__ == "__main__":
    main()
