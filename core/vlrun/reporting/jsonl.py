"""``metrics.jsonl``: one JSON object per line for every step and every score, for programs to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from vlrun.errors import first_few
from vlrun.files import atomic_write, open_itself, room_for
from vlrun.foreign.json import parse_json
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Reporter, RunInfo, StepReport
from vlrun.reporting.checked import CHECKSUM, checksum, text_of

FILE_NAME, DAMAGED = "metrics.jsonl", "metrics.damaged.jsonl"


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
            with room_for(self._path):
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
        **({} if score.higher_is_better else {"higher_is_better": False}),
        **({"detail": True} if score.detail else {}),
        **({} if score.standard_error is None else {"standard_error": score.standard_error}),
        "protocol": dict(score.protocol),
    }


def read_metrics(path: Path, damaged: Callable[[int, str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Reads the objects of a ``metrics.jsonl`` whose checksums are right; none if there is no file.

    Args:
        damaged: gets number and text of every other line, except one at the end that a kill has cut short.
    """
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    is_checked = False
    with file:
        for number, text in enumerate(file, 1):
            try:
                line = parse_json(text)
            except ValueError:
                line = None
            kept = line.pop(CHECKSUM, None) if isinstance(line, dict) else None
            is_checked = is_checked or kept is not None
            # earlier versions have written none
            is_whole = isinstance(line, dict) and (not is_checked or kept == checksum(text_of(line)))
            if is_whole and isinstance(line, dict) and "kind" in line and isinstance(line.get("step"), int):
                yield line
            elif damaged is not None and text.endswith("\n"):
                damaged(number, text)


def set_damage_aside(folder: Path, steps: int, evaluations: Iterable[tuple[int, str, str]]) -> list[str]:
    """Moves damaged lines of ``metrics.jsonl`` into a file of their own; says so, and which lines are missing.

    Args:
        steps, evaluations: see ``missing_lines``.
    """
    found: list[tuple[int, str]] = []
    whole = list(read_metrics(folder / FILE_NAME, lambda number, text: found.append((number, text))))
    remarks = []
    if found:
        with open_itself(folder / DAMAGED, "a") as file:
            file.writelines(text for _, text in found)
        with atomic_write(folder / FILE_NAME) as file:
            file.writelines(map(_as_json, whole))
        numbers = ", ".join(first_few([str(number) for number, _ in found], 5))
        remarks = [f"{FILE_NAME}: damaged in {len(found):,} lines ({numbers}), which are kept in {DAMAGED}"]
    missing = missing_lines(whole, steps, evaluations)
    return [*remarks, *([f"{FILE_NAME}: {missing}"] if missing else [])]


def missing_lines(
    lines: Sequence[Mapping[str, Any]], steps: int, evaluations: Iterable[tuple[int, str, str]] = ()
) -> str | None:
    """Says which lines on the first ``steps`` are not there, as after a cut; None if all are.

    Args:
        lines: of ``metrics.jsonl``. Every step has one, and every evaluation its scores.
        evaluations: step, task and split of each that is known to have been.
    """
    there = {line["step"] for line in lines if line["kind"] == "step"}
    scored = {(line["step"], line.get("task"), line.get("split")) for line in lines if line["kind"] == "result"}
    lost = [str(step) for step in range(1, steps + 1) if step not in there]
    unscored = [
        f"{task} {split} after step {step}"
        for step, task, split in evaluations
        if step <= steps and (step, task, split) not in scored
    ]
    found = [
        *([f"steps {', '.join(first_few(lost, 5))}"] if lost else []),
        *([f"scores of {', '.join(first_few(unscored, 5))}"] if unscored else []),
    ]
    return f"damaged, lines are missing: {'; '.join(found)}" if found else None


def _as_json(line: dict[str, Any]) -> str:
    text = text_of(line)
    return f'{text[:-1]}, "{CHECKSUM}": "{checksum(text)}"}}\n'


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(part) for part in ("task", "split", "name", "step", "final"))
