"""Small files and folders that everything may use."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlrun.data.building import build_annotations
from vlrun.errors import DataError
from vlrun.files import (
    folder_from,
    made_whole,
    parse_json,
    read_json,
    read_object,
    read_object_or_empty,
    write_text,
)


@pytest.mark.parametrize(
    ("value", "folder"),
    [(None, "/here/data"), ("", "/here/data"), ("~/x", "/home/someone/x"), ("x", "/here/x"), ("/x", "/x")],
)
def test_a_folder_of_the_environment_is_the_same_everywhere(
    value: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr("os.getcwd", lambda: "/here")
    monkeypatch.delenv("VLRUN_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("VLRUN_DATA", value)
    assert str(folder_from("VLRUN_DATA", "data")) == folder


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "3", '"x"'])
def test_what_is_no_object_reads_as_an_empty_one(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "file.json").write_text(content)
    assert read_object_or_empty(tmp_path / "file.json") == {}


def test_a_folder_made_whole_appears_at_the_end(tmp_path: Path) -> None:
    with made_whole(tmp_path / "new" / "folder") as draft:
        (draft / "inside").mkdir(parents=True)
        (draft / "inside" / "file").write_text("content")
        assert not (tmp_path / "new" / "folder").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]
    assert (tmp_path / "new" / "folder" / "inside" / "file").read_text() == "content"
    (tmp_path / "other").mkdir()
    assert (tmp_path / "new" / "folder").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_fails_before_it_is_whole_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way(draft: Path) -> None:
        draft.write_text("half")
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"), made_whole(tmp_path / "file") as draft:
        fail_half_way(draft)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../escaped", "{folder}/escaped", "../../../escaped", "link/escaped"])
def test_names_of_a_source_write_nothing_outside_the_folder_of_a_build(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()

    def build(source: Path, output: Path, existing: Path) -> None:
        (output / "link").symlink_to(tmp_path / "elsewhere")
        write_text(output / "inside.jsonl", "fine")
        write_text(output / f"{name.format(folder=tmp_path)}.jsonl", "escaped")

    builder: Any = SimpleNamespace(source="toy", build=build)
    with pytest.raises(DataError, match=r"lies outside .*: a name in the source cannot be the name of a file"):
        build_annotations(builder, tmp_path, tmp_path / "out")
    assert not list(tmp_path.rglob("*escaped*"))
    write_text(tmp_path / "after.txt", "others write where they want")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a\0b", r"a\\x00b\.jsonl' holds a zero byte"),
        ("a" * 300, "has a name of more than 200 bytes"),
        ("ü" * 100, "has a name of more than 200 bytes"),
        ("a/" * 3000, "is in a folder that is not there"),
        ("train.jsonl/x", r"out/train\.jsonl/x\.jsonl' is in a folder that is not there"),
    ],
    ids=["zero byte", "long", "long in UTF-8", "many folders", "within a file"],
)
def test_names_of_a_source_that_no_file_can_have_are_refused(tmp_path: Path, name: str, what: str) -> None:
    def build(source: Path, output: Path, existing: Path) -> None:
        write_text(output / "train.jsonl", "fine")
        write_text(output / f"{name}.jsonl", "odd")

    builder: Any = SimpleNamespace(source="toy", build=build)
    with pytest.raises(DataError, match=rf"{what}: a name in the source cannot be the name of a file"):
        build_annotations(builder, tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202egpj"])
def test_names_of_a_source_control_nothing(tmp_path: Path, name: str) -> None:
    def build(source: Path, output: Path, existing: Path) -> None:
        write_text(output / f"{name}.jsonl", "x")

    builder: Any = SimpleNamespace(source="toy", build=build)
    with pytest.raises(DataError, match="has control characters: a name in the source cannot be the name of a file"):
        build_annotations(builder, tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 6000, "{", "", '{"a": NaN', "\x00", '"\\ud800'])
def test_json_that_nobody_can_read_is_a_plain_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    assert read_object_or_empty(tmp_path / "a.json") == {}
    with pytest.raises(ValueError, match=r"."):
        parse_json(content)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"'])
def test_what_is_no_object_is_an_error_where_one_is_needed(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json: a JSON object is expected"):
        read_object(tmp_path / "a.json")


def test_json_that_is_huge_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed, it may come from a file of a thousandth of its size."""
    monkeypatch.setattr("vlrun.files._MOST_BYTES", 1000)
    (tmp_path / "a.json").write_text(f"[{'1,' * 500}1]")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    for name in ("a.json", "a.json.gz"):
        with pytest.raises(DataError, match=rf"{name}: more than 1,000 bytes of JSON"):
            read_json(tmp_path / name)
