"""The published files that say which images of COCO, Visual Genome and Flickr are the same -> a table of identities."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, PositiveInt, ValidationError

from vlrun.data.annotations import field_problems
from vlrun.data.identities import COLLECTIONS, collection_of, image_key, write_identities
from vlrun.data.json_stream import items_under, list_items
from vlrun.errors import DataError, first_few
from vlrun.files import sha256_of
from vlrun.interfaces.examples import canonical_image_id

SOURCE = "official"
GENOME_FILE = "image_data.json"
COCO_PARTS = ("train2014", "val2014")
COCO_KINDS = ("captions", "instances", "person_keypoints")
"""Any of them lists all images of its part; that of the captions is the smallest."""

SUMMARY = (
    f"folder with Visual Genome's {GENOME_FILE} and COCO's captions_train2014.json and captions_val2014.json (or "
    "instances_*), these two perhaps in 'annotations' in it"
)
OBTAIN = (
    "Download http://images.cocodataset.org/annotations/annotations_trainval2014.zip (captions_*.json or "
    "instances_*.json of both parts) and "
    "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/image_data.json.zip, and unpack them into one "
    "folder. Flickr30k needs no file: the names of its images are Flickr's numbers"
)
PUBLISHED = {GENOME_FILE: 108_077, "train2014": 82_783, "val2014": 40_504}

_PHOTO = re.compile(r"/(\d+)_[^/]*$")
_EXPECTED_COCO = "COCO's annotations, an object with images"
_EXPECTED_GENOME = "Visual Genome's image data, a list of images"

Row = TypeVar("Row", bound=BaseModel)


class GenomeImage(BaseModel):
    """An entry of Visual Genome's list; there is more in it."""

    image_id: PositiveInt
    coco_id: PositiveInt | None
    flickr_id: PositiveInt | None


class CocoImage(BaseModel):
    """An entry of COCO's ``images``; there is more in it."""

    id: PositiveInt
    file_name: str
    flickr_url: str


@dataclass(frozen=True)
class IdentityReport:
    """What a table joins.

    Attributes:
        images: with two names or more.
        shared: pair of collections -> images that are in both.
    """

    path: Path
    images: int
    shared: Mapping[tuple[str, str], int]
    remarks: tuple[str, ...]


def build_identities(folder: Path, out: Path) -> IdentityReport:
    """Writes the table at ``out`` from the files in ``folder``, or in ``annotations`` in it.

    An image of COCO names its photograph of Flickr, one of Visual Genome its image of COCO, its photograph, both or
    neither; what is equal to the same is equal. The long part of COCO's files, outlines or captions, is not parsed.

    Raises:
        DataError: a file is missing or damaged, or entries of it do not fit.
    """
    genome_path, coco_paths = _find(folder, GENOME_FILE), {part: _coco_file(folder, part) for part in COCO_PARTS}
    problems: list[str] = []
    coco: dict[str, str] = {}
    joined = _Joined()
    sources = []
    remarks = []
    for part, path in coco_paths.items():
        count = _read_coco(path, part, coco, joined, problems)
        sources.append({"file": path.name, "sha256": sha256_of(path), "images": count})
        remarks += _size_remark(path, count, PUBLISHED[part])
    genome, more = _read_genome(genome_path, coco, joined, problems)
    sources.append({"file": genome_path.name, "sha256": sha256_of(genome_path), "images": genome})
    if problems:
        raise DataError(first_few(problems))
    remarks += [*_size_remark(genome_path, genome, PUBLISHED[GENOME_FILE]), *more]
    groups = sorted(sorted(coco.get(key, key) for key in group) for group in joined.groups() if len(group) > 1)
    write_identities(out, groups, sources)
    members = [Counter(filter(None, map(collection_of, group))) for group in groups]
    return IdentityReport(out, len(groups), _shared(members), (*remarks, *_twin_remarks(members)))


def _find(folder: Path, *names: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a {SUMMARY}. {OBTAIN}")
    for place in (folder, folder / "annotations"):
        for name in names:
            if (place / name).is_file():
                return place / name
    raise DataError(f"{folder}: {' or '.join(names)} is not there. {OBTAIN}")


def _coco_file(folder: Path, part: str) -> Path:
    return _find(folder, *(f"{kind}_{part}.json" for kind in COCO_KINDS))


def _read_coco(path: Path, part: str, names: dict[str, str], joined: _Joined, problems: list[str]) -> int:
    """Notes the file name of each image, and its photograph; returns the number of images."""
    count = 0
    for place, image in _checked(items_under(path, "images", _EXPECTED_COCO), f"{path}: images", CocoImage, problems):
        count += 1
        name, key = canonical_image_id(PurePosixPath(image.file_name).name), f"coco:{image.id}"
        photo = _PHOTO.search(image.flickr_url)
        if image_key(name) != key or not name.upper().startswith(f"COCO_{part.upper()}_"):
            problems.append(f"{place}: file_name: expected COCO_{part}_{image.id:012d}.jpg (got {image.file_name!r})")
        elif key in names:
            problems.append(f"{place}: id: image {image.id} is there twice")
        elif photo is None:
            problems.append(f"{place}: flickr_url: there is no number of a photograph in it (got {image.flickr_url!r})")
        else:
            names[key] = name
            joined.join(key, f"flickr:{int(photo.group(1))}")
    if count == 0 and not problems:
        problems.append(f"{path}: images: the list is empty")
    return count


def _read_genome(path: Path, coco: Mapping[str, str], joined: _Joined, problems: list[str]) -> tuple[int, list[str]]:
    """Joins each image with what its entry names; returns the number of images, and remarks."""
    seen: set[int] = set()
    strangers = unknown = 0
    for place, image in _checked(list_items(path, _EXPECTED_GENOME), f"{path}", GenomeImage, problems):
        if image.image_id in seen:
            problems.append(f"{place}: image_id: image {image.image_id} is there twice")
        seen.add(image.image_id)
        key = f"visual-genome:{image.image_id}"
        if image.coco_id is not None:
            strangers += f"coco:{image.coco_id}" not in coco
            joined.join(f"coco:{image.coco_id}", key)
        if image.flickr_id is not None:
            joined.join(f"flickr:{image.flickr_id}", key)
        unknown += image.coco_id is None and image.flickr_id is None
    if not seen and not problems:
        problems.append(f"{path}: the list is empty")
    remarks = []
    if unknown:
        remarks.append(
            f"{unknown:,} images of Visual Genome name neither coco_id nor flickr_id: what they are is unknown"
        )
    if strangers:
        remarks.append(
            f"{strangers:,} images of Visual Genome have a coco_id that is in neither {' nor '.join(COCO_PARTS)}"
        )
    return len(seen), remarks


def _checked(items: Iterable[Any], where: str, model: type[Row], problems: list[str]) -> Iterator[tuple[str, Row]]:
    """The entries that fit ``model``, each with its place; what is wrong with the others is noted."""
    for index, item in enumerate(items):
        place = f"{where}, entry {index}"
        try:
            yield place, model.model_validate(item)
        except ValidationError as error:
            problems += [f"{place}: {problem}" for problem in field_problems(error)]


class _Joined:
    """Disjoint sets of names: what is equal to the same is equal."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        self._parents[self._root(other)] = self._root(one)

    def groups(self) -> Iterable[Sequence[str]]:
        found: dict[str, list[str]] = {}
        for name in list(self._parents):
            found.setdefault(self._root(name), []).append(name)
        return found.values()

    def _root(self, name: str) -> str:
        while (parent := self._parents.setdefault(name, name)) != name:
            self._parents[name] = self._parents.setdefault(parent, parent)  # halves the way for the next one
            name = parent
        return name


def _size_remark(path: Path, count: int, published: int) -> list[str]:
    return [] if count == published else [f"{path.name} lists {count:,} images; published are {published:,}"]


def _shared(members: Sequence[Mapping[str, int]]) -> dict[tuple[str, str], int]:
    pairs = [("visual-genome", "coco"), ("visual-genome", "flickr"), ("coco", "flickr")]
    return {pair: sum(all(name in group for name in pair) for group in members) for pair in pairs}


def _twin_remarks(members: Sequence[Mapping[str, int]]) -> list[str]:
    """Collections that have one image twice: the source says so, or contradicts itself."""
    twins = Counter(name for group in members for name, count in group.items() if count > 1)
    return [
        f"{count:,} images have two ids or more in {COLLECTIONS[name]} itself (at most {max(g[name] for g in members)})"
        for name, count in twins.items()
    ]
