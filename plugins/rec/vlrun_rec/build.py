"""The official archives, or ROSITA's annotations, -> one JSON-lines file per split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, FiniteFloat, ValidationError

from vlrun import BuildReport, DataError, canonical_image_id, first_few
from vlrun.data.annotations import field_problems, load_plain_pickle, size_remarks, write_annotations
from vlrun.files import read_json
from vlrun_rec.records import ReferringExpression
from vlrun_rec.sources import OfficialSource, rosita_file

Model = TypeVar("Model", bound=BaseModel)

_COMPLETE = 0.9  # an archive with this share of the published referents is probably meant to be the whole one

_ROSITA_KEYS = {"text": "text", "image": "img_file", "width": "image_w", "height": "image_h", "box": "gt_boxes"}
_SAME_NAMES: Mapping[str, str] = MappingProxyType({})

Records = dict[str, list[ReferringExpression]]


class _Sentence(BaseModel):
    sent_id: int
    raw: str | None = None
    sent: str


class _Reference(BaseModel):
    """An entry of ``refs(...).p``. Its ``file_name`` is left out: it has a suffix that no image has."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[_Sentence]


class _Image(BaseModel):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class _Category(BaseModel):
    id: int
    name: str


class _Instances(BaseModel):
    """``instances.json``, as far as it is needed."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def build_official(source: OfficialSource, folder: Path, output: Path) -> BuildReport:
    """Joins ``refs(...).p`` with ``instances.json`` and writes one record per expression.

    Raises:
        DataError: files, references or records are missing, damaged, or contradict others.
    """
    folder = _folder_with_archive(source, folder)
    references = _read_references(folder / source.refs_file)
    instances = _checked(_Instances, read_json(folder / "instances.json"), folder / "instances.json")
    records = _joined(references, instances, source, folder)
    remarks = [
        "text is the cleaned expression ('sent' of the official files); 'raw' keeps what was typed",
        *_empty_text_remarks(records),
        *_size_remarks(records, len(references), source),
    ]
    return BuildReport(_write(records, output), tuple(remarks))


def build_rosita(dataset: str, split_by: str, path: Path, output: Path) -> BuildReport:
    """Translates the annotations that ROSITA publishes: ``path`` is their JSON file, or a folder that holds it.

    Raises:
        DataError: the file is missing or damaged, or records of it are invalid.
    """
    path = _rosita_path(dataset, path)
    content = read_json(path)
    if not (isinstance(content, dict) and all(isinstance(rows, list) for rows in content.values())):
        raise DataError(f"{path}: expected an object of lists, one list of expressions per split")
    remarks = []
    problems: list[str] = []
    records: Records = {}
    for split, rows in content.items():
        ids = _rosita_ids(split, rows)
        if ids is None:
            ids = [f"{split}_{index}" for index in range(len(rows))]
            remarks.append(f"split '{split}' has no unique text_id; its expressions are numbered in the file's order")
        records[split] = []
        if not rows:
            problems.append(f"{path}: split '{split}' holds no expressions")
        for index, (identity, row) in enumerate(zip(ids, rows, strict=True)):
            place = f"{path}: split '{split}', record {index}"
            if record := _rosita_record(identity, row, split_by, place, problems):
                records[split].append(record)
    _raise_any(problems)
    return BuildReport(_write(records, output), (*remarks, *_empty_text_remarks(records)))


def _folder_with_archive(source: OfficialSource, folder: Path) -> Path:
    """``folder``, or the folder of the dataset inside it; checked to hold both files."""
    if folder.suffix == ".zip":
        raise DataError(f"{folder}: unpack the archive first and give the folder")
    names = ("instances.json", source.refs_file)
    for candidate in (folder, folder / source.dataset):
        if all((candidate / name).is_file() for name in names):
            return candidate
    present = first_few(sorted(path.name for path in folder.iterdir()), 10) if folder.is_dir() else []
    raise DataError(
        f"{folder}: expected {' and '.join(names)} (found: {', '.join(present) or 'nothing'}). {source.obtain}"
    )


def _read_references(path: Path) -> list[_Reference]:
    content = load_plain_pickle(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of references, found {type(content).__name__}")
    problems: list[str] = []
    references = []
    for index, entry in enumerate(content):
        name = f"ref {entry['ref_id']}" if isinstance(entry, dict) and "ref_id" in entry else f"entry {index}"
        try:
            references.append(_Reference.model_validate(entry))
        except ValidationError as error:
            problems += [f"{path}: {name}: {problem}" for problem in field_problems(error)]
    _raise_any(problems)
    return references


def _joined(references: Sequence[_Reference], instances: _Instances, source: OfficialSource, folder: Path) -> Records:
    problems: list[str] = []
    images = _by_id(instances.images, "image", folder / "instances.json", problems)
    annotations = _by_id(instances.annotations, "annotation", folder / "instances.json", problems)
    categories = {category.id: category.name for category in instances.categories}
    referent_of: dict[int, int] = {}  # sentence -> reference
    records: Records = {}
    for reference in references:
        place = f"{folder / source.refs_file}: ref {reference.ref_id}"
        splits = _splits(reference.split)
        if not splits:
            problems.append(f"{place}: unknown split '{reference.split}'")
        image = images.get(reference.image_id)
        annotation = annotations.get(reference.ann_id)
        if image is None:
            problems.append(f"{place}: image {reference.image_id} is not in instances.json")
        if annotation is None:
            problems.append(f"{place}: annotation {reference.ann_id} is not in instances.json")
        if image is None or annotation is None:
            continue
        if annotation.image_id != image.id:
            problems.append(
                f"{place}: annotation {annotation.id} belongs to image {annotation.image_id}, not {image.id}"
            )
        referent = {
            "image": canonical_image_id(image.file_name),
            "width": image.width,
            "height": image.height,
            "box": annotation.bbox,
            "ref_id": reference.ref_id,
            "ann_id": annotation.id,
            "category": categories.get(annotation.category_id),
            "split_by": source.split_by,
        }
        for sentence in reference.sentences:
            where = f"{place}: sentence {sentence.sent_id}"
            if sentence.sent_id in referent_of:
                problems.append(f"{where}: is already a sentence of ref {referent_of[sentence.sent_id]}")
            referent_of[sentence.sent_id] = reference.ref_id
            content = {**referent, "id": str(sentence.sent_id), "text": sentence.sent, "raw": sentence.raw}
            if record := _record(content, where, problems):
                for split in splits:
                    records.setdefault(split, []).append(record)
    _raise_any(problems)
    return records


def _splits(name: str) -> list[str]:
    """The splits that a reference belongs to. As in the refer API, 'testAB' means testA and testB."""
    if name in ("train", "val", "test"):
        return [name]
    match = re.fullmatch(r"test([A-Z]+)", name)
    return [f"test{letter}" for letter in match.group(1)] if match else []


def _empty_text_remarks(records: Records) -> list[str]:
    counts = {split: sum(not record.text.strip() for record in rows) for split, rows in records.items()}
    return [
        f"split '{split}': {count:,} expressions are empty after cleaning" for split, count in counts.items() if count
    ]


def _size_remarks(records: Records, num_references: int, source: OfficialSource) -> list[str]:
    """Differences to the published sizes, if this looks like the whole archive and not like a sample of it."""
    if num_references < _COMPLETE * sum(size.referents for size in source.sizes.values()):
        return []
    published = {
        split: {"referents": size.referents, "expressions": size.expressions} for split, size in source.sizes.items()
    }
    sizes = {
        split: {"referents": len({record.ref_id for record in rows}), "expressions": len(rows)}
        for split in dict.fromkeys([*source.sizes, *records])
        for rows in [records.get(split, [])]
    }
    return size_remarks(sizes, published)


def _rosita_path(dataset: str, path: Path) -> Path:
    """The annotation file, in its own folder or in ROSITA's ``annotations``; its suffix may be missing."""
    name = rosita_file(dataset)
    if path.is_file():
        return path
    set_name = name.removesuffix("_annotations.json").replace("_", "-")
    names = (name, name.removesuffix(".json"))  # the last revision of ROSITA's code opens it without .json
    candidates = [folder / file for folder in (path, path / set_name) for file in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}: expected the file {name}, or a folder with it")


def _rosita_ids(split: str, rows: Sequence[Any]) -> list[str] | None:
    """The text ids of a split, or None if they do not tell its rows apart."""
    ids = [row.get("text_id") if isinstance(row, Mapping) else None for row in rows]
    usable = all(isinstance(identity, str | int) and str(identity) for identity in ids)
    return [str(identity) for identity in ids] if usable and len(set(map(str, ids))) == len(ids) else None


def _rosita_record(
    identity: str, row: Any, split_by: str, place: str, problems: list[str]
) -> ReferringExpression | None:
    if not isinstance(row, Mapping):
        problems.append(f"{place}: expected an object, found {type(row).__name__}")
        return None
    content = {ours: row[theirs] for ours, theirs in _ROSITA_KEYS.items() if theirs in row}
    if isinstance(content.get("image"), str):
        content["image"] = canonical_image_id(content["image"])
    return _record({**content, "id": identity, "split_by": split_by}, place, problems, _ROSITA_KEYS)


def _record(
    content: Mapping[str, Any], place: str, problems: list[str], source_names: Mapping[str, str] = _SAME_NAMES
) -> ReferringExpression | None:
    """The checked record, or None after noting what is wrong; fields are called as the source calls them."""
    try:
        return ReferringExpression.model_validate(content)
    except ValidationError as error:
        for problem in field_problems(error):
            field = re.match(r"\w*", problem)[0]  # type: ignore[index]
            problems.append(f"{place}: {source_names.get(field, field)}{problem[len(field) :]}")
        return None


def _by_id(items: Sequence[Model], what: str, path: Path, problems: list[str]) -> dict[int, Model]:
    by_id: dict[int, Model] = {}
    for item in items:
        if by_id.setdefault(item.id, item) != item:  # type: ignore[attr-defined]
            problems.append(f"{path}: {what} {item.id} occurs twice, with different content")  # type: ignore[attr-defined]
    return by_id


def _checked(model: type[Model], content: Any, path: Path) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DataError(first_few([f"{path}: {problem}" for problem in field_problems(error)])) from error


def _raise_any(problems: Sequence[str]) -> None:
    if problems:
        raise DataError(first_few(problems))


def _write(records: Records, output: Path) -> dict[str, int]:
    return {
        split: write_annotations(output / f"{split}.jsonl", rows, ReferringExpression)
        for split, rows in records.items()
    }
