"""The options of tasks that choose an answer from a list (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from vlrun.config.base import DataPath, TaskConfig
from vlrun.errors import RequiredFile
from vlrun.foreign.json import parse_json

ANSWERS_FILE = "answers.json"
"""Name of the answer vocabulary that builders write beside the annotation files of a dataset."""

_LOOKED_AT = 100  # lines of a split, for what is the same in all of them


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

    def needs_answers(self, which: str) -> str:
        """Says that the loss compares shares of answers, and that there are only scores."""
        return (
            f"{which} comes with scores and not with the answers behind them, so loss '{self.loss}' is impossible; use "
            "loss: bce, or build the annotations from other files"
        )

    @property
    def needed_fields(self) -> tuple[str, ...]:
        """People's answers, for a loss that compares their shares."""
        return ("answers",) if self.loss in ("kl", "kl-then-bce") else ()

    def data_problems(self, splits: Sequence[str]) -> list[str]:
        """A loss that needs people's answers where the annotations have scores alone."""
        if "answers" not in self.needed_fields:
            return []
        return [
            self.needs_answers(f"{place}: question '{record.get('id')}'")
            for split in dict.fromkeys(splits)
            for place, record in _first_records(self.dataset.split_file(split))
            if record.get("scores") is not None
        ]

    def weights_problems(self, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, Any]) -> list[str]:
        """An imported answer head without the list of its answers, or with a list of another size."""
        shape = shapes.get("answer_head.dense1.weight") if self.transfer_head else None
        if not shape:
            return []
        problem = answer_list_problem(shape[0], metadata.get("heads", {}).get("answer_head", {}).get("answers"))
        return [problem] if problem else []

    def demo_overrides(self) -> dict[str, Any]:
        """Option values that select the answers of the demo data."""
        return {**super().demo_overrides(), "answers": None}


def answer_list_problem(rows: int, answers: Sequence[str] | None) -> str | None:
    """Why an imported answer head cannot be used with what is recorded of its answers; None if it can."""
    if answers is not None and len(answers) == rows:
        return None
    recorded = "do not say which" if answers is None else f"were imported with a list of {len(answers):,}"
    return (
        f"the weights have a head for {rows:,} answers and {recorded}. Import them again with --answers FILE (the list "
        "they were trained with), or start from a random head with the task's option transfer_head: false"
    )


def _first_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first record of an annotation file with known answers, and its place; nothing if none of the first has."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(islice(file, _LOOKED_AT), 1):
                record = parse_json(line)
                if record.get("answers") or record.get("scores") is not None:
                    yield f"{path}:{number}", record
                    return
    except (OSError, ValueError, AttributeError):
        return  # reading the file as a whole says what is wrong with it
