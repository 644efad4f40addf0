"""The result of a benchmark: a table for people, and a record for programs."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vlrun.config.experiment import Experiment
from vlrun.cpus import usable_cpus
from vlrun.engine.run_folder import now
from vlrun.interfaces.measurement import Measurement
from vlrun.reporting.tables import TextTable

SCHEMA = 1
"""Version of the record: it changes when a field changes its meaning."""


@dataclass(frozen=True)
class Case:
    """What was measured with one batch size and precision; 0 and empty for what does not depend on them."""

    rows: Sequence[Measurement]
    batch: int = 0
    precision: str = ""


@dataclass
class Record:
    """All figures of an experiment on a machine."""

    experiment: Mapping[str, Any]
    machine: Mapping[str, Any]
    cases: list[Case] = field(default_factory=list)
    date: str = field(default_factory=now)

    def as_json(self) -> dict[str, Any]:
        """The record, with one flat row for each figure."""
        return {
            "schema": SCHEMA,
            "date": self.date,
            "vlrun": version("vlrun"),
            "machine": dict(self.machine),
            "experiment": dict(self.experiment),
            "rows": [
                {
                    "batch": case.batch or None,
                    "precision": case.precision or None,
                    "part": row.part,
                    "what": row.what,
                    "value": row.value,
                    "unit": row.unit,
                    "ratios": dict(row.ratios),
                    "note": row.note,
                }
                for case in self.cases
                for row in case.rows
            ],
        }


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What the figures depend on: device, processor, threads and versions."""
    facts: dict[str, Any] = {
        "device": device.type,
        "processor": _processor(),
        "cpus": usable_cpus(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def experiment_facts(experiment: Experiment, parameters: int, processes: int, workers: int) -> dict[str, Any]:
    """Which experiment it was, and what about it sets the speed."""
    return {
        "name": experiment.name,
        "backbone": experiment.backbone.name,
        "parameters": parameters,
        "tasks": [task.display_name for task in experiment.tasks],
        "processes": processes,
        "workers": workers,
        "data": "demo" if experiment.demo else "own",
    }


def as_table(record: Mapping[str, Any]) -> TextTable:
    """The rows of a record (of ``Record.as_json``): a line for each figure, more where it has several ratios."""
    lines: list[Sequence[str]] = []
    for row in record["rows"]:
        case = ", ".join(str(row[name]) for name in ("batch", "precision") if row[name] is not None)
        ratios = [f"{ratio:.2f} x {name}" for name, ratio in row["ratios"].items()]
        remarks = [*ratios, *([row["note"]] if row["note"] else [])]
        lines.append((row["part"], row["what"], case, shown_value(row["value"]), row["unit"], "\n".join(remarks)))
    experiment, machine = record["experiment"], record["machine"]
    about = [
        f"{experiment['name']}: {experiment['backbone']}, {experiment['parameters'] / 1e6:.0f} M parameters, "
        f"{experiment['data']} data, {experiment['processes']} process(es)",
        ", ".join(f"{name} {value}" for name, value in machine.items()),
    ]
    headers = ("part", "figure", "batch", "value", "unit", "beside")
    return TextTable(headers, lines, numeric=("value",), footnotes=about)


def shown_value(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
