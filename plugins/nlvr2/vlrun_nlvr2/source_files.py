"""Reading what NLVR2 is published in; problems are collected, so that a user sees all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ValidationError

from vlrun import DataError, canonical_image_id, first_few
from vlrun.data.annotations import AnnotationFile, field_problems
from vlrun.files import read_json
from vlrun_nlvr2.sources import parse_identifier


def _is_official(identifier: str) -> str:
    parse_identifier(identifier)
    return identifier


def _image_id(name: str) -> str:
    image = canonical_image_id(name)
    if not image or image != canonical_image_id(image):  # of .jpg.jpg, a name is left that is none of an image either
        raise ValueError("should be the name of an image")
    return image


OfficialIdentifier = Annotated[str, AfterValidator(_is_official)]
ImageName = Annotated[str, AfterValidator(_image_id)]


class OfficialRow(BaseModel):
    """A line of an official file, as far as it is needed. Labels are words: Python's bool("False") is True."""

    identifier: OfficialIdentifier
    sentence: str
    label: Literal["True", "False"] | None = None


class LxmertRow(BaseModel):
    """An entry of LXMERT's files, with canonical ids of its images.

    Its ``uid`` is left out: a line number, of no use outside LXMERT's code.
    """

    identifier: OfficialIdentifier
    img0: ImageName
    img1: ImageName
    sent: str
    label: Literal[0, 1] | None = None


def read_json_lines(path: Path, problems: list[str]) -> list[OfficialRow]:
    """Reads the rows of an official file: one object a line, although it is called .json.

    Raises:
        DataError: the file is missing or empty.
    """
    file = AnnotationFile(path)
    rows: list[OfficialRow] = []
    first_places: dict[str, str] = {}
    for index in range(len(file)):
        try:
            row = file.read(index, OfficialRow)
        except DataError as error:
            problems += error.problems
            continue
        problems += _repeated(row.identifier, file.place(index), f"line {index + 1}", first_places)
        rows.append(row)
    return rows


def read_json_list(path: Path, problems: list[str]) -> list[LxmertRow]:
    """Reads the rows of one of LXMERT's files.

    Raises:
        DataError: the file is missing, or is not a JSON list.
    """
    try:
        content = read_json(path)
    except DataError as error:
        raise DataError(
            [*error.problems, "the official files, one statement a line, are for `--from official`"]
        ) from error
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of statements, found {type(content).__name__}")
    rows: list[LxmertRow] = []
    first_places: dict[str, str] = {}
    for index, entry in enumerate(content):
        place = f"{path}: record {index}"
        try:
            row = LxmertRow.model_validate(entry)
        except ValidationError as error:
            problems += [f"{place}: {problem}" for problem in field_problems(error)]
            continue
        problems += _repeated(row.identifier, place, f"record {index}", first_places)
        rows.append(row)
    return rows


def read_phenomena(path: Path, problems: list[str]) -> dict[str, list[str]]:
    """Reads the linguistic phenomena of each sentence.

    Blocks of the file are a sentence, lines with ``* phenomenon``, and an empty line.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
    phenomena: dict[str, list[str]] = {}
    sentence = ""
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        is_phenomenon = text.startswith("* ")
        if is_phenomenon and sentence:
            phenomena[sentence].append(text.removeprefix("* "))
        elif text and (is_phenomenon or sentence or text in phenomena):
            problems.append(f"{path}:{number}: expected a new sentence, its lines with '* phenomenon', and a gap")
        else:
            sentence = text
            if sentence:
                phenomena[sentence] = []
    return phenomena


def read_identifiers(path: Path) -> list[str]:
    """Reads the identifiers of an official file, such as test1.json.

    Raises:
        DataError: the file is missing or empty, or lines are damaged.
    """
    problems: list[str] = []
    rows = read_json_lines(path, problems)
    if problems:
        raise DataError(first_few(problems))
    return [row.identifier for row in rows]


def _repeated(identifier: str, place: str, position: str, first_places: dict[str, str]) -> list[str]:
    first = first_places.setdefault(identifier, position)
    return [] if first == position else [f"{place}: identifier '{identifier}' is already that of {first}"]
