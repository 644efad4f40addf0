"""The scores of a run after each epoch, kept in one small file so that a resumed run knows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrun.examples import Score
from vlrun.files import write_json


class EvaluationHistory:
    """``evaluations.json``: step, task, split and scores of every evaluation on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, step: int, task: str, split: str, scores: Sequence[Score]) -> None:
        self.rows.append({"step": step, "task": task, "split": split, "scores": [asdict(score) for score in scores]})

    def has(self, step: int) -> bool:
        return any(row["step"] == step for row in self.rows)

    def best_step(self, task: str) -> int:
        """The step with the best primary score of a task; the earliest of equals."""

        def merit(row: dict[str, Any]) -> float:
            score = next((score for score in row["scores"] if score["primary"]), row["scores"][0])
            value = float(score["value"])
            return value if score["higher_is_better"] else -value

        rows = [row for row in self.rows if row["task"] == task]
        best: int = max(rows, key=lambda row: (merit(row), -row["step"]))["step"]
        return best

    def read(self, up_to: int) -> None:
        """Reads what an interrupted run has written, as far as the checkpoint that is continued."""
        if self.path.exists():
            self.rows = [row for row in json.loads(self.path.read_text()) if row["step"] <= up_to]

    def write(self) -> None:
        write_json(self.path, self.rows)
