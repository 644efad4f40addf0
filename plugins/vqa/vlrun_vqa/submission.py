"""The result file that the evaluation server of VQA v2 takes: written, read and checked (no torch, no numpy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrun import DataError, Prediction, SubmissionRows, first_few
from vlrun.data.submissions import read_json_list
from vlrun.files import read_json, write_json

_KEYS = {"question_id", "answer"}


def write_results(predictions: Sequence[Prediction], path: Path) -> None:
    """Writes the result file, in the order of ``predictions``. Only here do ids become numbers.

    Raises:
        DataError: an id is not a number, or an answer is not text.
    """
    problems = [
        *(f"prediction '{item.id}': the id is no question_id" for item in predictions if not _is_number(item.id)),
        *(
            f"prediction '{item.id}': answer should be text, it is {item.fields.get('answer')!r}"
            for item in predictions
            if not isinstance(item.fields.get("answer"), str)
        ),
    ]
    if problems:
        raise DataError(first_few(problems))
    write_json(path, [{"question_id": int(item.id), "answer": item.fields["answer"]} for item in predictions])


def read_results(path: Path) -> SubmissionRows:
    """Reads the question ids of a result file, as text, and says what is wrong with its entries, counted from 0.

    Raises:
        DataError: it is not a JSON list.
    """
    rows = SubmissionRows([])
    for index, entry in enumerate(read_json_list(path)):
        name, problems = _checked(entry)
        place = f"entry {index}" + (f" (question {name})" if name is not None else "")
        rows.problems.extend(f"{place}: {problem}" for problem in problems)
        if name is not None:
            rows.ids.append(name)
    return rows


def official_ids(path: Path) -> list[str]:
    """Reads the ids of an official questions file, such as ``v2_OpenEnded_mscoco_test2015_questions.json[.gz]``.

    Raises:
        DataError: it is not such a file.
    """
    content = read_json(path)
    questions = content.get("questions") if isinstance(content, Mapping) else None
    if not isinstance(questions, list):
        raise DataError(f"{path}: expected an official questions file, an object with a list of questions")
    wrong = [
        f"{path}: question {index}: question_id should be a whole number"
        for index, question in enumerate(questions)
        if not isinstance(question, Mapping) or not _is_integer(question.get("question_id"))
    ]
    if wrong:
        raise DataError(first_few(wrong))
    return [str(question["question_id"]) for question in questions]


def _checked(entry: Any) -> tuple[str | None, list[str]]:
    """The id, if there is one, and all that is wrong."""
    if not isinstance(entry, Mapping):
        return None, [f"expected an object with question_id and answer, found {entry!r:.60}"]
    problems = [f"there is no {key}" for key in sorted(_KEYS - entry.keys(), reverse=True)]
    problems += [f"there is a key {key!r}, which the server does not know" for key in sorted(entry.keys() - _KEYS)]
    name = None
    if "question_id" in entry:
        question_id = entry["question_id"]
        if _is_integer(question_id) or (isinstance(question_id, str) and _is_number(question_id)):
            name = str(question_id)
        if not _is_integer(question_id):
            problems.append(f"question_id should be a whole number without quotes, it is {question_id!r:.60}")
    if "answer" in entry and not isinstance(entry["answer"], str):
        problems.append(f"answer should be text, it is {entry['answer']!r:.60}")
    return name, problems


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
