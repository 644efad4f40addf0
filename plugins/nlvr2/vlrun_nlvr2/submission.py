"""The file that the official scorer takes: ``identifier,True`` or ``identifier,False`` a line, without a header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlrun import DataError, Prediction, SubmissionRows, first_few
from vlrun.files import write_text

_EXAMPLE = "dev-850-0-1,True"
_WORDS = {"true": True, "false": False}


def write_csv(predictions: Sequence[Prediction], path: Path) -> None:
    """Writes one line per prediction, in their order."""
    write_text(path, "".join(f"{prediction.id},{bool(prediction.fields['label'])}\n" for prediction in predictions))


def read_csv(path: Path) -> list[Prediction]:
    """Reads the predictions of such a file, with the field ``label``.

    Raises:
        DataError: it is not such a file, or lines of it are damaged.
    """
    predictions = []
    problems = []
    for identifier, label, problem in _rows(path):
        if problem:
            problems.append(problem)
        else:
            predictions.append(Prediction(identifier, {"label": label}))
    if problems:
        raise DataError(first_few(problems))
    return predictions


def read_submission(path: Path) -> SubmissionRows:
    """Reads the identifiers of such a file, except those of lines without a second column, which say nothing.

    Raises:
        DataError: it is not such a file.
    """
    rows = _rows(path)
    return SubmissionRows([name for name, _, _ in rows if name], [problem for _, _, problem in rows if problem])


def _rows(path: Path) -> list[tuple[str, bool | None, str]]:
    """(identifier, label, what is wrong or nothing) of each line.

    As in the official script, case and columns after the second do not matter. The script counts any other word as a
    wrong answer; here it is refused, as a mistake in the file and not of the model.
    """
    text = _text(path)
    lines = text.removesuffix("\n").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        identifier, *columns = line.strip().split(",")
        label = _WORDS.get(columns[0].lower()) if columns else None
        problem = ""
        if label is None:
            wrong = f"'{columns[0]}' is neither True nor False" if columns else f"expected two columns as in {_EXAMPLE}"
            cut = number == len(lines) and not text.endswith("\n")
            problem = f"{path}:{number}: {wrong}{'; the file ends in the middle of this line' if cut else ''}"
        rows.append((identifier if columns else "", label, problem))
    return rows


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty; expected lines such as {_EXAMPLE}")
    if text.lstrip()[0] in "[{":
        raise DataError(f"{path}: looks like JSON; expected lines such as {_EXAMPLE}")
    return text
