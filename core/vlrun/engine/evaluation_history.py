"""The scores during training, by which the best checkpoints are chosen."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlrun.errors import ConfigError, DataError
from vlrun.foreign.json import parse_json
from vlrun.interfaces.examples import Score
from vlrun.reporting.hashes import is_damaged, write_hashed_json
from vlrun.reporting.jsonl import FILE_NAME as METRICS
from vlrun.reporting.jsonl import read_metrics
from vlrun.reporting.run_record import score_of


class EvaluationHistory:
    """``evaluations.json``: step, task, split and scores of every evaluation during training."""

    def __init__(self, path: Path, best_scores: Mapping[str, str | None] = MappingProxyType({})) -> None:
        """``best_scores``: task -> the score that counts; without one its primary score does."""
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._best_scores = best_scores

    def add(self, step: int, task: str, split: str, scores: Sequence[Score]) -> None:
        """Adds the scores of an evaluation after ``step``.

        Raises:
            ConfigError: the score that counts is not among them.
        """
        wanted, names = self._best_scores.get(task), [score.name for score in scores]
        if wanted is not None and wanted not in names:
            near = difflib.get_close_matches(wanted, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"task '{task}': best_score '{wanted}' is none of its scores on {split}: {', '.join(names)}.{hint} "
                "The checkpoint of this epoch is written: --resume goes on with another name"
            )
        self.rows.append({"step": step, "task": task, "split": split, "scores": [score.as_json() for score in scores]})

    def has(self, step: int) -> bool:
        """Whether there was an evaluation after ``step``."""
        return any(row["step"] == step for row in self.rows)

    def merits(self, task: str, up_to: int | None = None) -> dict[int, float]:
        """Step -> the score of a task that counts, negated where lower is better; for steps up to ``up_to``."""
        wanted = self._best_scores.get(task)
        rows = [row for row in self.rows if row["task"] == task and (up_to is None or row["step"] <= up_to)]
        return {row["step"]: _merit(row["scores"], wanted) for row in rows}

    def best_step(self, tasks: Sequence[str]) -> int:
        """The best step for all of ``tasks`` together; for one task, the earliest with its best score.

        Scores of several tasks differ in unit and direction, so they are not added up. Step by step, the best so far
        gives way to one that is better by the mean over tasks of the relative change of the primary score,
        (new - best) / max(|new|, |best|), negated where lower is better. So only the newest step can become the best
        one: older checkpoints may be gone.
        """
        merits_by_task = [self.merits(task) for task in tasks]
        first, *later = sorted(set.intersection(*(set(merits) for merits in merits_by_task)))
        best = first
        for step in later:
            if sum(_relative_gain(merits[best], merits[step]) for merits in merits_by_task) > 0:
                best = step
        return best

    def read(self, up_to: int) -> str | None:
        """Reads what an interrupted run has written, up to the checkpoint from which it continues.

        What is damaged is made again of the results in ``metrics.jsonl``; then it says so.

        Raises:
            DataError: that has none.
        """
        folder, name = self.path.parent, self.path.name
        remark = None
        try:
            rows: Any = parse_json(self.path.read_bytes(), allow_nan=True) if self.path.exists() else []
        except ValueError:
            rows = None
        if not _is_history(rows) or is_damaged(folder, name):
            rows = rows_of_metrics(folder)
            if not rows:
                raise DataError(f"{self.path} is damaged, and {METRICS} does not have its scores; put back a copy")
            remark = f"{name} was damaged; it is made again of the results in {METRICS}"
        self.rows = [row for row in rows if row["step"] <= up_to]
        return remark

    def write(self) -> None:
        """Writes the file."""
        write_hashed_json(self.path.parent, self.path.name, self.rows)


def rows_of_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``evaluations.json``, from the results of evaluations during training in ``metrics.jsonl``."""
    rows: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for line in read_metrics(folder / METRICS):
        if line["kind"] == "result" and not line.get("final"):
            address = (line["step"], str(line.get("task")), str(line.get("split")))
            rows.setdefault(address, []).append(score_of(line).as_json())
    return [
        {"step": step, "task": task, "split": split, "scores": scores} for (step, task, split), scores in rows.items()
    ]


def _is_history(rows: Any) -> bool:
    """Whether it is what ``write`` writes; an earlier version has kept no hash that could tell."""
    kinds: dict[str, Any] = {"step": int, "task": str, "split": str, "scores": list}
    score_kinds: dict[str, Any] = {"name": str, "value": int | float, "primary": bool, "higher_is_better": bool}
    return _are_objects(rows, kinds) and all(row["scores"] and _are_objects(row["scores"], score_kinds) for row in rows)


def _are_objects(items: Any, kinds: Mapping[str, Any]) -> bool:
    return isinstance(items, list) and all(
        isinstance(item, dict) and all(isinstance(item.get(key), kind) for key, kind in kinds.items()) for item in items
    )


def _relative_gain(before: float, after: float) -> float:
    larger = max(abs(before), abs(after))
    return (after - before) / larger if larger else 0.0


def _merit(scores: Sequence[dict[str, Any]], wanted: str | None) -> float:
    counts = [score for score in scores if score["name"] == wanted] or [score for score in scores if score["primary"]]
    score = (counts or scores)[0]
    return float(score["value"]) * (1 if score["higher_is_better"] else -1)
