"""The scores of a run after each epoch, kept in one small file so that a resumed run knows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrun.files import write_json
from vlrun.interfaces.examples import Score


class EvaluationHistory:
    """``evaluations.json``: step, task, split and scores of every evaluation on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, step: int, task: str, split: str, scores: Sequence[Score]) -> None:
        self.rows.append({"step": step, "task": task, "split": split, "scores": [asdict(score) for score in scores]})

    def has(self, step: int) -> bool:
        return any(row["step"] == step for row in self.rows)

    def merits(self, task: str, up_to: int | None = None) -> dict[int, float]:
        """Step -> primary score of a task, turned so that larger is better; of steps up to ``up_to``."""
        rows = [row for row in self.rows if row["task"] == task and (up_to is None or row["step"] <= up_to)]
        return {row["step"]: _merit(row["scores"]) for row in rows}

    def best_step(self, tasks: Sequence[str]) -> int:
        """The step with the best mean of the tasks' primary scores; the earliest of equals."""
        of_tasks = [self.merits(task) for task in tasks]
        means = {step: sum(merits[step] for merits in of_tasks) for step in of_tasks[0]}
        return max(means, key=lambda step: (means[step], -step))

    def read(self, up_to: int) -> None:
        """Reads what an interrupted run has written, as far as the checkpoint that is continued."""
        if self.path.exists():
            self.rows = [row for row in json.loads(self.path.read_text()) if row["step"] <= up_to]

    def write(self) -> None:
        write_json(self.path, self.rows)


def _merit(scores: Sequence[dict[str, Any]]) -> float:
    score = next((score for score in scores if score["primary"]), scores[0])
    return float(score["value"]) * (1 if score["higher_is_better"] else -1)
