"""Captions as Karpathy, ROSITA, LXMERT-S or VOLTA publish them -> one JSON-lines file per split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from vlrun import BuildReport, DataError, canonical_image_id, first_few, image_key
from vlrun.data.annotations import size_remarks, write_annotations
from vlrun.files import read_json
from vlrun_retrieval.records import ImageCaption
from vlrun_retrieval.source_files import (
    CaptionRow,
    KarpathyImage,
    RositaRow,
    VoltaRow,
    lines_of,
    map_problems,
    read_object,
    rows_of,
)
from vlrun_retrieval.sources import (
    CAPTIONS_PER_IMAGE,
    COCO,
    KARPATHY_SPLITS,
    LXMERT_S_FILES,
    OBTAIN,
    ROSITA_MAP,
    VOLTA_FILES,
    Collection,
)


@dataclass
class Split:
    """The images of one split in order, each with the ids and texts of its captions."""

    captions: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, image: str, captions: Sequence[tuple[str, str]], place: str, problems: list[str]) -> None:
        """Adds an image with its captions; what is wrong with it goes to ``problems``."""
        if not captions:
            problems.append(f"{place}: image '{image}' has no caption")
        first = self.places.setdefault(image, place)
        if first != place:
            problems.append(f"{place}: image '{image}' is already that of {first}")
        self.captions[image] = list(captions)

    def records(self) -> Iterator[dict[str, Any]]:
        """One record for each caption, in order."""
        for image, captions in self.captions.items():
            for position, (identity, text) in enumerate(captions):
                yield {"id": identity, "text": text, "image": image, "position": position}


Splits = dict[str, Split]


def build_karpathy(
    collection: Collection, source: Path, output: Path, *, captions_per_image: int | None = None
) -> BuildReport:
    """Translates ``dataset_coco.json`` or ``dataset_flickr30k.json``; ``source`` is the file, or a folder with it.

    Args:
        captions_per_image: keep so many first captions of each image; None keeps all.

    Raises:
        DataError: the file is missing, damaged or that of another dataset, or images of it do not fit.
    """
    path = _file(source, [collection.karpathy_file])
    content = read_object(path)
    name = content.get("dataset")
    if name is not None and name != collection.karpathy:
        raise DataError(f"{path}: holds '{name}', and {collection.name} needs '{collection.karpathy}'")
    problems: list[str] = []
    splits: Splits = {}
    given: Counter[str] = Counter()
    left_out = 0
    for place, image in rows_of(content.get("images"), KarpathyImage, f"{path}: images", problems):
        if image.split not in KARPATHY_SPLITS:
            problems.append(f"{place}: unknown split '{image.split}' (known: {', '.join(KARPATHY_SPLITS)})")
            continue
        problems += [f"{place}: {problem}" for problem in image.problems()]
        given[image.split] += 1
        captions = [(str(sentence.sentid), sentence.raw) for sentence in image.sentences[:captions_per_image]]
        left_out += len(image.sentences) - len(captions)
        split = splits.setdefault(KARPATHY_SPLITS[image.split], Split())
        split.add(canonical_image_id(image.filename), captions, place, problems)
    remarks = [
        f"split 'train' holds Karpathy's 'train' ({given['train']:,} images) and 'restval' ({given['restval']:,}), on "
        "which retrieval papers train too"
    ]
    if not given["restval"]:
        remarks = []
    if left_out:
        remarks.append(f"{left_out:,} captions beyond the first {captions_per_image} of their images are left out")
    return _written(collection, splits, output, problems, remarks)


def build_karpathy_five(collection: Collection, source: Path, output: Path) -> BuildReport:
    """The same with the first five captions of each image alone."""
    return build_karpathy(collection, source, output, captions_per_image=CAPTIONS_PER_IMAGE)


def build_rosita(collection: Collection, source: Path, output: Path) -> BuildReport:
    """Translates the annotations that ROSITA publishes: ``source`` is their JSON file, or a folder that holds it.

    ``img_text_map.json`` beside it says nothing new, and is checked against the rows.

    Raises:
        DataError: a file is missing or damaged, rows do not fit, or the captions of an image do not lie together.
    """
    path = _rosita_path(collection, source)
    map_path = path.parent / ROSITA_MAP
    maps = read_object(map_path) if map_path.is_file() else None
    problems: list[str] = []
    remarks = [] if maps is not None else [f"{map_path} is not there, so the order of the images was not checked"]
    splits: Splits = {}
    for theirs, rows in read_object(path).items():
        ours = collection.rosita_splits.get(theirs, theirs)
        if ours not in collection.images:
            problems.append(f"{path}: unknown split '{theirs}' (known: {', '.join(collection.rosita_splits)})")
            continue
        if ours != theirs:
            remarks.append(f"split '{ours}' is ROSITA's '{theirs}'")
        place = f"{path}: split '{theirs}'"
        placed_rows = list(rows_of(rows, RositaRow, place, problems))
        splits[ours] = _rosita_split(placed_rows, problems, remarks, ours)
        if maps is not None and len(placed_rows) == len(rows):
            files = [row.img_file for _, row in placed_rows]
            numbers = {name: number for number, name in enumerate(dict.fromkeys(files))}
            wrong = map_problems(maps.get(theirs), list(numbers), [numbers[name] for name in files])
            problems += [f"{map_path}: split '{theirs}': {problem}" for problem in wrong]
    return _written(collection, splits, output, problems, remarks)


def build_lxmert_s(collection: Collection, folder: Path, output: Path) -> BuildReport:
    """Translates LXMERT-S's ``flickr30k_train2014.json`` and ``flickr30k_test2014.json``, or one of them.

    Raises:
        DataError: there is none of them, or entries do not fit.
    """
    problems: list[str] = []
    splits: Splits = {}
    for name, path in _files(folder, LXMERT_S_FILES, inside="image_retrieval").items():
        split = splits.setdefault(name, Split())
        for place, row in rows_of(read_json(path), CaptionRow, str(path), problems):
            image = canonical_image_id(row.img_path)
            split.add(image, _numbered(image, row.sentences), place, problems)
    remark = "there is no split 'val': what LXMERT-S's code calls 'valid' is 'test'"
    return _written(collection, splits, output, problems, [remark])


def build_volta(collection: Collection, folder: Path, output: Path) -> BuildReport:
    """Translates VOLTA's, or ViLBERT's, ``train_ann.jsonl``, ``valid_ann.jsonl`` and ``test_ann.jsonl``.

    Raises:
        DataError: there is none of them, or lines do not fit.
    """
    problems: list[str] = []
    splits: Splits = {}
    unnamed = 0
    for name, path in _files(folder, VOLTA_FILES, inside="annotations").items():
        split = splits.setdefault(name, Split())
        for place, row in lines_of(path, VoltaRow, problems):
            image = _volta_image(collection, name, row)
            unnamed += row.img_path is None and image == _coco_number(row.id)
            if image not in (str(row.id), _coco_number(row.id)) and not image.endswith(f"_{_coco_number(row.id)}"):
                problems.append(f"{place}: id {row.id!r} is not the image of img_path '{row.img_path}'")
            split.add(image, _numbered(image, row.sentences), place, problems)
    remark = (
        f"{unnamed:,} images of 'train' have a number and no file name, so they may be of COCO's train2014 or val2014; "
        "their ids are like 000000000042, and the features have to be called so too"
    )
    return _written(collection, splits, output, problems, [remark] if unnamed else [])


def _file(source: Path, names: Sequence[str]) -> Path:
    """``source``, or the first of ``names`` that is in the folder ``source``."""
    if source.is_file():
        return source
    for name in names:
        if (source / name).is_file():
            return source / name
    raise DataError(f"{source}: expected the file {names[0]}, or a folder with it. {OBTAIN}")


def _files(folder: Path, names: Mapping[str, str], inside: str) -> dict[str, Path]:
    """Split -> its file, for those that are in ``folder`` or in the folder ``inside`` it."""
    for candidate in (folder, folder / inside):
        files = {split: candidate / name for split, name in names.items() if (candidate / name).is_file()}
        if files:
            return files
    raise DataError(f"{folder}: expected a folder with some of {', '.join(names.values())}")


def _rosita_path(collection: Collection, source: Path) -> Path:
    """The annotation file; folders may be its own or ROSITA's ``annotations``, and the suffix may be missing."""
    folder = source / collection.rosita_set if (source / collection.rosita_set).is_dir() else source
    # the last revision of ROSITA's code opens it without .json
    return _file(folder, [collection.rosita_file, collection.rosita_file.removesuffix(".json")])


def _rosita_split(rows: Sequence[tuple[str, RositaRow]], problems: list[str], remarks: list[str], name: str) -> Split:
    """One image after the other, as in ``rows``, each with its place."""
    ids = [row.text_id for _, row in rows]
    if None in ids or len(set(map(str, ids))) < len(ids):
        remarks.append(f"split '{name}' has no unique text_id; its captions are called image#position")
        ids = []
    split = Split()
    images = [canonical_image_id(row.img_file) for _, row in rows]
    starts = [index for index, image in enumerate(images) if index == 0 or image != images[index - 1]]
    for start, stop in pairwise([*starts, len(rows)]):
        texts = [row.text for _, row in rows[start:stop]]
        captions = list(zip(map(str, ids[start:stop]), texts, strict=True)) if ids else _numbered(images[start], texts)
        split.add(images[start], captions, rows[start][0], problems)
    return split


def _volta_image(collection: Collection, split: str, row: VoltaRow) -> str:
    """COCO's rows may have a number alone. Karpathy's val and test are parts of val2014, his restval too."""
    if row.img_path is not None:
        return canonical_image_id(row.img_path)
    if collection.name != COCO.name:
        return str(row.id)
    return _coco_number(row.id) if split == "train" else f"COCO_val2014_{_coco_number(row.id)}"


def _coco_number(identity: int | str) -> str:
    return str(identity).zfill(12)


def _numbered(image: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Captions with ids like those of Flickr30k's own file, ``1007129816#0``."""
    return [(f"{image}#{position}", text) for position, text in enumerate(texts)]


def _written(
    collection: Collection, splits: Splits, output: Path, problems: list[str], remarks: Sequence[str]
) -> BuildReport:
    if not problems:
        problems = [problem for name, split in splits.items() for problem in _split_problems(name, split)]
    if problems:
        raise DataError(first_few(problems))
    if not splits:
        raise DataError("the source holds no captions")
    counts = {
        name: write_annotations(output / f"{name}.jsonl", split.records(), ImageCaption)
        for name, split in splits.items()
    }
    split_remarks = (line for name, split in splits.items() for line in _split_remarks(collection, name, split))
    return BuildReport(counts, (*remarks, *split_remarks, *_leak_remarks(splits)))


def _split_problems(name: str, split: Split) -> list[str]:
    if not split.captions:
        return [f"split '{name}': the source holds no captions of it"]
    counts = Counter(identity for captions in split.captions.values() for identity, _ in captions)
    return [f"split '{name}': {count} captions have the id '{id_}'" for id_, count in counts.items() if count > 1]


def _split_remarks(collection: Collection, name: str, split: Split) -> list[str]:
    """What may surprise in a split: its size, images with more or fewer captions than usual, captions without text."""
    images, published = len(split.captions), collection.images[name]
    remarks = size_remarks({name: {"images": images}}, {name: {"images": published}}) if published is not None else []
    lengths = Counter(len(captions) for captions in split.captions.values())
    usual = lengths.pop(CAPTIONS_PER_IMAGE, 0)
    if lengths:
        listed = ", ".join(f"{count:,} with {length}" for length, count in sorted(lengths.items()))
        remarks.append(
            f"split '{name}': {images - usual:,} of {images:,} images have another number of captions than "
            f"{CAPTIONS_PER_IMAGE} ({listed}); the retrieval protocol says which of them count"
        )
    blank = sum(not text.strip() for captions in split.captions.values() for _, text in captions)
    if blank:
        remarks.append(f"split '{name}': {blank:,} captions are blank")
    return remarks


def _leak_remarks(splits: Splits) -> list[str]:
    """Splits with images in common. A test split within another one is meant so."""
    images = {name: {image_key(image) for image in split.captions} for name, split in splits.items()}
    return [
        f"splits '{one}' and '{other}' share {len(shared):,} images: a score on one after training on the other is too "
        "high"
        for one, other in combinations(images, 2)
        if (shared := images[one] & images[other]) and {one, other} != {"test", "test1k"}
    ]
