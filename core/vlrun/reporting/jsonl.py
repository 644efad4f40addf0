"""``metrics.jsonl``: one JSON object per line for every step and every score, for programs to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from vlrun.files import atomic_write, open_itself
from vlrun.foreign.json import finite, parse_json
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Reporter, RunInfo, StepReport

FILE_NAME = "metrics.jsonl"


class JsonLinesReporter(Reporter):
    """Appends a line per step and per score.

    A continued run first removes lines that are newer than its checkpoint, so the file is like that of an unbroken run.
    Reading a float gives the same bits as were written; nan and infinity, which JSON lacks, become null.
    """

    leaves = MappingProxyType({"metrics": "metrics.jsonl"})

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._path = Path()
        self._results: set[tuple[Any, ...]] = set()  # keys of results from before this start

    def start(self, run: RunInfo) -> None:
        """Opens the file, without lines on steps that a continued run does again."""
        self._path = run.folder / FILE_NAME
        kept = [line for line in read_metrics(self._path) if line["step"] <= run.start_step]
        self._results = {_key(line) for line in kept if line["kind"] == "result"}
        self._replace_by(kept)

    def step(self, report: StepReport) -> None:
        """Appends a line on a step."""
        self._append(
            {
                "kind": "step",
                "step": report.step,
                "epoch": report.epoch,
                "task": report.task,
                **({"task_epoch": report.task_epoch} if report.task_epoch else {}),
                "loss": report.loss,
                "losses": dict(report.losses),
                "learning_rate": report.learning_rate,
                "gradient_norm": report.gradient_norm,
                "examples_per_second": report.examples_per_second,
                "data_wait_share": report.data_wait_share,
                **({"scalars": dict(report.scalars)} if report.scalars else {}),
            }
        )

    def evaluation(self, report: EvaluationReport) -> None:
        """Appends a line for each score, in place of lines from before a stop."""
        lines = [result_line(report, score) for score in report.scores]
        repeated = {_key(line) for line in lines} & self._results
        if repeated:  # the run was stopped between this evaluation and the next checkpoint, and repeats it
            self._results -= repeated
            self._replace_by(
                line for line in read_metrics(self._path) if line["kind"] != "result" or _key(line) not in repeated
            )
        for line in lines:
            self._append(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _replace_by(self, lines: Iterable[dict[str, Any]]) -> None:
        self.close()
        with atomic_write(self._path) as file:
            file.writelines(_as_json(line) for line in lines)
        self._file = open_itself(self._path, "a")

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(_as_json(line))


def result_line(report: EvaluationReport, score: Score) -> dict[str, Any]:
    """The object of ``metrics.jsonl`` for a score."""
    return {
        "kind": "result",
        "task": report.task,
        "split": report.split,
        "name": score.name,
        "value": score.value,
        "unit": score.unit,
        "count": score.count,
        "step": report.step,
        "epoch": report.epoch,
        "final": report.final,
        "primary": score.primary,
        **({"detail": True} if score.detail else {}),
        **({} if score.standard_error is None else {"standard_error": score.standard_error}),
        "protocol": dict(score.protocol),
    }


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the objects of a ``metrics.jsonl``, without lines that a kill cut short; none if there is no file."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for text in file:
            try:
                line = parse_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "kind" in line and isinstance(line.get("step"), int):
                yield line


def _as_json(line: dict[str, Any]) -> str:
    return json.dumps(finite(line), ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(part) for part in ("task", "split", "name", "step", "final"))
