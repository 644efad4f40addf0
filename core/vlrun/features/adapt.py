"""What an import changes on request: spellings of image ids, and boxes that are parts of the image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.errors import DataError, UsageError
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.origin import FeatureOrigin
from vlrun.files import read_json
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_COCO_NAME = re.compile(rb"COCO_(?:train2014|val2014|test2015)_(\d{12})")
ID_KINDS = ("numbers", "karpathy")


@dataclass(frozen=True)
class IdTable:
    """Other ids for the images of a source.

    Attributes:
        label: where they come from, for the manifest.
        file: what they were read from; a build continues only if it did not change.
        names: id in the source -> id in the store; what is not there stays as it is.
    """

    label: str
    file: Path
    names: Mapping[str, str]

    def __getitem__(self, image_id: str) -> str:
        return self.names.get(image_id.lstrip("0") if image_id.isdecimal() else image_id, image_id)


def read_id_table(kind: str, path: Path) -> IdTable:
    """The ids of ``kind`` at ``path``.

    ``numbers``: files or folders with names such as ``COCO_val2014_000000058350``, in annotations or a list; features
    that call the image ``58350`` get them. ``karpathy``: a ``dataset_*.json``, whose ``imgid`` becomes the file name.

    Raises:
        UsageError: there is no such kind.
        DataError: the file is not there, or holds no such ids.
    """
    if kind not in ID_KINDS:
        raise UsageError(f"--ids {kind}: there are {' and '.join(ID_KINDS)}")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    names = dict(_numbers(path) if kind == "numbers" else _karpathy(path))
    if not names:
        raise DataError(f"{path} holds no names of images such as COCO_val2014_000000058350")
    return IdTable(f"{kind} of {path.name}", path, names)


def _numbers(path: Path) -> Iterator[tuple[str, str]]:
    files = sorted(file for file in path.rglob("*.json*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                for match in _COCO_NAME.finditer(line):
                    yield match[1].decode().lstrip("0"), match[0].decode()


def _karpathy(path: Path) -> Iterator[tuple[str, str]]:
    try:
        for image in read_json(path)["images"]:
            yield str(image["imgid"]).lstrip("0"), canonical_image_id(image["filename"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no dataset_*.json of Karpathy: no {error}") from error


class Adapted(FeatureSource):
    """A source with other ids for its images, or boxes in pixels."""

    def __init__(self, source: FeatureSource, ids: IdTable | None, *, normalised_boxes: bool) -> None:
        self._source = source
        self._ids = ids
        self._normalised_boxes = normalised_boxes

    def files(self) -> Sequence[str | os.PathLike[str]]:
        return [*self._source.files(), *([self._ids.file] if self._ids else [])]

    def left_out(self) -> Sequence[str]:
        return self._source.left_out()

    def describe(self) -> str:
        return self._source.describe()

    def origin(self) -> FeatureOrigin:
        return self._source.origin()

    def num_records(self) -> int | None:
        return self._source.num_records()

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        for record in self._source.records(position):
            image_id = self._ids[record.image_id] if self._ids else record.image_id
            yield replace(record, image_id=image_id, load=partial(self._load, record, image_id))

    def _load(self, record: SourceRecord, image_id: str) -> RegionFeatures:
        regions = record.load()
        boxes = _in_pixels(regions) if self._normalised_boxes else regions.boxes
        return replace(regions, image_id=image_id, boxes=boxes)


def _in_pixels(regions: RegionFeatures) -> Any:
    boxes = regions.boxes
    if boxes.size and not (np.abs(boxes) <= 1.01).all():
        largest = np.abs(boxes).max()
        raise DataError(f"boxes up to {largest:g} are no parts of the image; leave --normalised-boxes out")
    return boxes * np.array([regions.width, regions.height] * 2, np.float32)
