"""The evaluation server's file: a JSON list of ``{"questionId": text, "prediction": text}``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlrun import DataError, Prediction, SubmissionRows
from vlrun.data.json_stream import list_items, object_items
from vlrun.files import atomic_write
from vlrun_gqa.sources import SUBMISSION_FILE

_ENOUGH_PROBLEMS = 1000  # a file that is wrong on every row is wrong in the same way


def write_submission(predictions: Sequence[Prediction], path: Path) -> None:
    """Writes the file with one row a line, so that 4 million questions can still be read in a pager."""
    with atomic_write(path) as file:
        for number, prediction in enumerate(predictions):
            row = {"questionId": prediction.id, "prediction": prediction.fields["answer"]}
            file.write(f"{',' if number else '['}\n{json.dumps(row, ensure_ascii=False)}")
        file.write("\n]\n" if predictions else "[]\n")


def read_submission(path: Path) -> SubmissionRows:
    """Reads the ids of a file in its order, and says what the server would not understand.

    Raises:
        DataError: it is not a JSON list, or ends early.
    """
    ids: list[str] = []
    problems: list[str] = []
    num_problems = 0
    for number, row in enumerate(list_items(path, SUBMISSION_FILE)):
        row_problems = _row_problems(row)
        num_problems += len(row_problems)
        if len(problems) < _ENOUGH_PROBLEMS:
            problems += [f"row {number}: {problem}" for problem in row_problems]
        if isinstance(row, dict) and isinstance(row.get("questionId"), str | int):
            ids.append(str(row["questionId"]))
    if num_problems > len(problems):
        problems.append(f"... and {num_problems - len(problems):,} more problems")
    return SubmissionRows(ids, problems)


def official_ids(path: Path) -> list[str]:
    """Reads the ids in an official file of questions.

    Raises:
        DataError: it is not such a file.
    """
    ids = []
    for name, question in object_items(path, "an object from question ids to questions, as GQA publishes them"):
        if not (isinstance(question, dict) and "question" in question):
            raise DataError(
                f"{path}: '{name}' is no question; give an official file such as testdev_balanced_questions.json"
            )
        ids.append(name)
    return ids


def _row_problems(row: Any) -> list[str]:
    if not isinstance(row, dict):
        return [f"expected an object with questionId and prediction, found {row!r:.60}"]
    problems = []
    name, answer = row.get("questionId"), row.get("prediction")
    if isinstance(name, int) and not isinstance(name, bool):
        problems.append(
            f"questionId is the number {name}; it must be text: 01827492 and 1827492 are different questions"
        )
    elif not isinstance(name, str):
        problems.append(
            f"questionId should be text, it is {name!r:.60}" if "questionId" in row else "has no questionId"
        )
    if not isinstance(answer, str):
        problems.append(
            f"prediction should be text, it is {answer!r:.60}" if "prediction" in row else "has no prediction"
        )
    return problems
