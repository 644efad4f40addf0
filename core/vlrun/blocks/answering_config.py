"""The options of tasks that choose an answer from a list (this module imports no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from vlrun.config.base import DataPath, TaskConfig
from vlrun.errors import RequiredFile

ANSWERS_FILE = "answers.json"
"""Name of the answer vocabulary that builders write beside the annotation files of a dataset."""


class AnsweringConfig(TaskConfig):
    """Options of tasks that choose an answer from a list."""

    answers: DataPath | None = Field(
        None, description="answer vocabulary, a JSON list; null: answers.json beside the annotations"
    )
    loss: Literal["bce", "kl", "kl-then-bce", "cross-entropy"] = Field(
        "bce",
        description="bce: binary cross-entropy with soft scores; kl: divergence from the shares of answers; "
        "kl-then-bce: first one, then the other, as in ROSITA; cross-entropy: with the best answer",
    )
    switch_epoch: NonNegativeInt = Field(
        3, description="kl-then-bce: first epoch, counted from 0, that trains with bce"
    )
    scale_by_answers: bool = Field(
        True, description="sum the loss over answers (LXMERT) instead of taking their mean (ROSITA)"
    )
    transfer_head: bool = Field(
        True, description="start from the answer head of the imported weights, if they have one, answer by answer"
    )

    @property
    def answers_path(self) -> Path:
        """The file of the answer vocabulary."""
        return self.answers or self.dataset.annotations / ANSWERS_FILE

    def required_files(self) -> list[RequiredFile]:
        """The answer vocabulary."""
        remedy = (
            f"runner data build {self.dataset.name} --from SOURCE PATH {self.dataset.annotations}\n"
            "writes one; or set `answers:` to a published list"
        )
        return [RequiredFile(self.answers_path, f"answer vocabulary of task '{self.display_name}'", remedy)]

    def demo_overrides(self) -> dict[str, Any]:
        """Option values that select the answers of the demo data."""
        return {**super().demo_overrides(), "answers": None}
