"""Image ids of annotation files, which are found without reading whole records where that is safe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError
from vlrun.data.annotations import AnnotationFile


def written(folder: Path, records: list[dict[str, Any]], **options: Any) -> AnnotationFile:
    path = folder / "train.jsonl"
    path.write_text("".join(f"{json.dumps(record, **options)}\n" for record in records), encoding="utf-8")
    return AnnotationFile(path)


PLAIN = [{"id": "1", "image": "COCO_1", "text": "?"}, {"id": "2", "text": "an image", "image": "COCO_2"}]


@pytest.mark.parametrize("separators", [None, (",", ":"), (" , ", " : ")])
def test_plain_records_give_their_images_in_order(tmp_path: Path, separators: tuple[str, str] | None) -> None:
    assert list(written(tmp_path, PLAIN, separators=separators).image_ids()) == ["COCO_1", "COCO_2"]


@pytest.mark.parametrize(
    ("record", "images"),
    [
        ({"id": "3", "images": ["a", "b"]}, ["a", "b"]),
        ({"id": "3", "image": 'quoted "image": "not" this'}, ['quoted "image": "not" this']),
        ({"id": "3", "text": 'the "image": "none"', "image": "a"}, ["a"]),
        ({"id": "3", "region": {"image": "inner"}, "image": "outer"}, ["outer"]),
        ({"id": "3", "image": "back\\slash"}, ["back\\slash"]),
        ({"id": "3", "image": "ünï"}, ["ünï"]),
        ({"id": "3", "text": "image", "image": "a"}, ["a"]),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_records_that_are_not_plain_are_read_as_they_are(
    tmp_path: Path, record: dict[str, Any], images: list[str], ascii_only: bool
) -> None:
    file = written(tmp_path, [PLAIN[0], record, PLAIN[1]], ensure_ascii=ascii_only)
    assert list(file.image_ids()) == ["COCO_1", *images, "COCO_2"]


def test_a_record_with_two_images_does_not_make_up_for_one_with_none(tmp_path: Path) -> None:
    file = written(tmp_path, [{"id": "1", "of": {"image": "x"}, "image": "a"}, {"id": "2"}])
    with pytest.raises(DataError, match=r"train\.jsonl:2: image: field required"):
        list(file.image_ids())


def test_a_name_that_is_no_text_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"image": "a"}\n{"image": "\xff"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2: not UTF-8"):
        list(AnnotationFile(path).image_ids())
