"""COCO's official caption files -> one JSON-lines file per split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vlrun import BuildReport, DataError, canonical_image_id, first_few
from vlrun.data.annotations import field_problems, size_remarks, write_annotations
from vlrun.files import read_json
from vlrun_pretraining.records import CocoCaption
from vlrun_pretraining.sources import OBTAIN, OFFICIAL_FILES, OfficialFile

Row = TypeVar("Row", bound=BaseModel)

Captions = dict[str, list[tuple[str, str]]]
"""Image -> id and text of each of its captions."""


class ImageRow(BaseModel):
    """An entry of ``images``; there is more in it."""

    id: int
    file_name: str


class CaptionRow(BaseModel):
    """An entry of ``annotations``."""

    id: int
    image_id: int
    caption: str


def build_official(folder: Path, output: Path) -> BuildReport:
    """Translates ``captions_train2014.json`` and ``captions_val2014.json`` of the folder, or of ``annotations`` in it.

    Images and the captions of each keep the order of the files; there, the captions of an image do not lie together.

    Raises:
        DataError: a file is missing or damaged, or entries of it do not fit.
    """
    problems: list[str] = []
    splits = {
        name: _captions(path, problems) for name, path in _paths(folder).items()
    }  # both are read before a word is written, so that all problems are told at once
    if problems:
        raise DataError(first_few(problems))
    counts = {
        name: write_annotations(output / f"{name}.jsonl", _records(captions), CocoCaption)
        for name, captions in splits.items()
    }
    remarks = [line for name, captions in splits.items() for line in _remarks(name, OFFICIAL_FILES[name], captions)]
    return BuildReport(counts, tuple(remarks))


def _paths(folder: Path) -> dict[str, Path]:
    for candidate in (folder, folder / "annotations"):
        paths = {name: candidate / file.name for name, file in OFFICIAL_FILES.items()}
        missing = [path.name for path in paths.values() if not path.is_file()]
        if not missing:
            return paths
        if len(missing) < len(paths):
            raise DataError(f"{candidate}: {', '.join(missing)} is not there. {OBTAIN}")
    names = " and ".join(file.name for file in OFFICIAL_FILES.values())
    raise DataError(f"{folder}: expected a folder with {names}. {OBTAIN}")


def _captions(path: Path, problems: list[str]) -> Captions:
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected an object with images and annotations, found {type(content).__name__}")
    images: dict[int, str] = {}
    captions: Captions = {}
    for place, image in _rows(content, "images", ImageRow, path, problems):
        name = canonical_image_id(image.file_name)
        if image.id in images or name in captions:
            problems.append(f"{place}: image {image.id}, file_name '{image.file_name}', is there twice")
        images[image.id] = name
        captions.setdefault(name, [])
    seen: dict[int, str] = {}
    for place, row in _rows(content, "annotations", CaptionRow, path, problems):
        first = seen.setdefault(row.id, place)
        if first != place:
            problems.append(f"{place}: id {row.id} is already that of {first}")
        if row.image_id not in images:
            problems.append(f"{place}: image_id {row.image_id} is none of images")
            continue
        captions[images[row.image_id]].append((str(row.id), row.caption))
    return captions


def _rows(
    content: Mapping[str, Any], key: str, model: type[Row], path: Path, problems: list[str]
) -> Iterator[tuple[str, Row]]:
    """The entries of a list that fit ``model``, each with its place; what is wrong with the others is noted."""
    rows = content.get(key)
    if not isinstance(rows, list):
        problems.append(f"{path}: {key}: expected a list, found {type(rows).__name__}")
        return
    for index, entry in enumerate(rows):
        place = f"{path}: {key}, entry {index}"
        try:
            yield place, model.model_validate(entry)
        except ValidationError as error:
            problems += [f"{place}: {problem}" for problem in field_problems(error)]


def _records(captions: Captions) -> Iterator[dict[str, Any]]:
    for image, of_image in captions.items():
        for identity, text in of_image:
            yield {"id": identity, "text": text, "image": image}


def _remarks(split: str, published: OfficialFile, captions: Captions) -> Iterator[str]:
    """What may surprise in a split: its size, images without captions, captions without text."""
    found = {"images": len(captions), "captions": sum(map(len, captions.values()))}
    yield from size_remarks({split: found}, {split: {"images": published.images, "captions": published.captions}})
    if without := sum(not of_image for of_image in captions.values()):
        yield f"split '{split}': {without:,} images have no caption and are left out"
    if blank := sum(not text.strip() for of_image in captions.values() for _, text in of_image):
        yield f"split '{split}': {blank:,} captions are blank"
