"""Reading huge JSON files item by item, compressed ones too, and telling how far it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from vlrun import DataError
from vlrun.data.annotations import write_annotations
from vlrun.data.build_progress import progress_told_to
from vlrun.data.json_stream import items_by_key, items_of, list_items, value_under

CONTENT = {"kind": "x", "rows": [{"a": [1, [2.5, {"b": None}]]}, "text", 3, [], {}], "more": {"rows": [9]}}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_items_and_values_are_those_of_the_file(compressed: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", CONTENT)
    if compressed:
        path = path.with_suffix(".json.gz")
        path.write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    assert list(items_of(path, "rows", "an object")) == CONTENT["rows"]
    assert value_under(path, "kind", "an object") == "x"
    assert value_under(path, "none", "an object") is None


def test_lists_of_an_object_come_with_their_keys(tmp_path: Path) -> None:
    content = {"val": CONTENT["rows"], "none": [], "train": [{"id": 1}, {"id": [2]}]}
    path = write(tmp_path / "a.json", content)
    assert list(items_by_key(path, "lists")) == [(key, item) for key, items in content.items() for item in items]


@pytest.mark.parametrize("content", ['{"a": 3}', '{"a": {"b": []}}', '{"b": [1], "a": "x"}', '{"a": null}'])
def test_anything_but_lists_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: expected lists; 'a' is no list"):
        list(items_by_key(write(tmp_path / "a.json", content), "lists"))


def test_an_empty_list_is_none_that_is_missing(tmp_path: Path) -> None:
    assert list(items_of(write(tmp_path / "a.json", {"rows": []}), "rows", "an object")) == []
    with pytest.raises(DataError, match="there is no list 'rows' in it"):
        list(items_of(write(tmp_path / "a.json", {"rows": {}}), "rows", "an object"))


@pytest.mark.parametrize("cut", [20, 5])
def test_a_cut_off_compressed_file_is_said_in_one_line(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(CONTENT).encode())[:-cut])
    with pytest.raises(DataError, match=r"^\S*a\.json\.gz: not readable gzip \(.*\); get the file again$"):
        list(items_of(path, "rows", "an object"))
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"a\.json\.gz: not readable gzip"):
        list(list_items(path, "a list"))


class Row(BaseModel):
    id: str


def test_reading_and_writing_tell_how_far_they_are(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    path = write(tmp_path / "a.json", [{"id": f"{number:0100}"} for number in range(30_000)])
    with progress_told_to(lambda *report: told.append(report)):
        rows = list(list_items(path, "a list"))
        write_annotations(tmp_path / "b.jsonl", rows, Row)
        write_annotations(tmp_path / "c.jsonl", iter(rows), Row)
        write_annotations(tmp_path / "d.jsonl", iter(rows), Row, len(rows))
    quiet = len(told)
    assert list(list_items(path, "a list")) == rows
    assert len(told) == quiet
    reading = [report for report in told if report[0] == "reading a.json, MB"]
    assert reading[0] == ("reading a.json, MB", 0, 3)
    assert reading[-1][1:] == (3, 3)
    for name, is_known in (("b", True), ("c", False), ("d", True)):
        writing = [report[1:] for report in told if report[0] == f"writing {name}.jsonl"]
        assert writing == [(done, 30_000) for done in range(0, 30_000, 1000) if is_known]
