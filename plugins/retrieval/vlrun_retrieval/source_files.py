"""Reading what captions are published in; problems are collected, so that a user sees all of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vlrun import DataError
from vlrun.data.annotations import AnnotationFile, field_problems
from vlrun.files import read_json

Row = TypeVar("Row", bound=BaseModel)

_COCO_NUMBER = re.compile(r"\d{12}$")


class KarpathySentence(BaseModel):
    """A caption of such an image."""

    raw: str
    sentid: int
    imgid: int | None = None


class KarpathyImage(BaseModel):
    """An entry of ``images``. ``imgid`` is a running number of Karpathy's, ``cocoid`` that of COCO."""

    filename: str
    split: str
    imgid: int | None = None
    cocoid: int | None = None
    sentences: list[KarpathySentence]

    def problems(self) -> list[str]:
        """Ids that do not fit: a file in which somebody mixed up ``imgid`` and ``cocoid``, or images."""
        problems = []
        number = _COCO_NUMBER.search(Path(self.filename).stem)
        if self.cocoid is not None and number is not None and int(number.group()) != self.cocoid:
            problems.append(f"cocoid {self.cocoid} is not the image of filename '{self.filename}'")
        for sentence in self.sentences:
            if None not in (self.imgid, sentence.imgid) and sentence.imgid != self.imgid:
                problems.append(f"sentence {sentence.sentid} belongs to imgid {sentence.imgid}, not to {self.imgid}")
        return problems


class CaptionRow(BaseModel):
    """An entry of LXMERT-S's lists, and of VOLTA's where it has ``img_path``; LXMERT-S's ``id`` is a line number."""

    img_path: str
    sentences: list[str]


class VoltaRow(BaseModel):
    """A line of VOLTA's files: the number of an image, or for Flickr30k its name, and maybe its file."""

    id: int | str
    img_path: str | None = None
    sentences: list[str]


class RositaRow(BaseModel):
    """A caption in ROSITA's files."""

    text: str
    img_file: str
    text_id: int | str | None = None


def rows_of(rows: Any, model: type[Row], place: str, problems: list[str]) -> Iterator[tuple[str, Row]]:
    """The entries of a list that fit ``model``, each with its place; what is wrong with the others is noted.

    Raises:
        DataError: it is no list.
    """
    if not isinstance(rows, list):
        raise DataError(f"{place}: expected a list, found {type(rows).__name__}")
    for index, entry in enumerate(rows):
        where = f"{place}, entry {index}"
        try:
            yield where, model.model_validate(entry)
        except ValidationError as error:
            problems += [f"{where}: {problem}" for problem in field_problems(error)]


def lines_of(path: Path, model: type[Row], problems: list[str]) -> Iterator[tuple[str, Row]]:
    """The same of a file with one object a line.

    Raises:
        DataError: the file is missing or empty.
    """
    file = AnnotationFile(path)
    for index in range(len(file)):
        try:
            yield file.place(index), file.read(index, model)
        except DataError as error:
            problems += error.problems


def read_object(path: Path) -> Mapping[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        DataError: the file is missing or damaged, or holds no object.
    """
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def map_problems(content: Any, images: Sequence[str], image_of_row: Sequence[int]) -> list[str]:
    """Where one split of ROSITA's ``img_text_map.json`` contradicts the rows of that split.

    Args:
        content: img_file -> image, image -> img_file, row -> image, image -> one of its rows; numbers from 0, which as
            keys are text.
        images: the image files of the split, in the order of the rows.
        image_of_row: place in ``images`` of each row's image.
    """
    if not (isinstance(content, list) and len(content) == 4 and all(isinstance(part, Mapping) for part in content)):
        return ["expected a list of four objects"]
    to_number, to_file, to_image, to_row = content
    expected = (
        ("image of file", to_number, {name: number for number, name in enumerate(images)}),
        ("file of image", to_file, {str(number): name for number, name in enumerate(images)}),
        ("image of row", to_image, {str(row): image for row, image in enumerate(image_of_row)}),
    )
    problems = [
        f"{what} {key!r}: {given.get(key)!r}, in the rows {wanted.get(key)!r}"
        for what, given, wanted in expected
        for key in dict.fromkeys([*wanted, *given])
        if given.get(key) != wanted.get(key)
    ]
    for number in range(len(images)):
        row = to_row.get(str(number))
        if not isinstance(row, int) or not 0 <= row < len(image_of_row) or image_of_row[row] != number:
            problems.append(f"row of image '{number}': {row!r} is none of its rows")
    return problems
