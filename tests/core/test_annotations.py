"""Annotation files: reading by position, writing, validating; and pickles that may not run code."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from vlrun.data.annotations import (
    AnnotationFile,
    load_plain_pickle,
    validate_annotations,
    write_annotations,
)
from vlrun.errors import DataError, first_few


class Caption(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    text: str
    stars: int | None = Field(None, ge=1, le=5)


@pytest.fixture
def three_lines(tmp_path: Path) -> Path:
    path = tmp_path / "val.jsonl"
    write_annotations(path, [{"id": name, "text": f"ä {name}"} for name in "abc"], Caption)
    return path


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# --- reading ---


def test_records_are_addressed_by_position(three_lines: Path) -> None:
    file = AnnotationFile(three_lines)
    assert len(file) == 3
    assert [record["id"] for record in file] == ["a", "b", "c"]
    assert file[1] == {"id": "b", "text": "ä b"}
    assert file[-1]["id"] == "c"


def test_a_position_after_the_end_is_an_index_error(three_lines: Path) -> None:
    with pytest.raises(IndexError, match="3 records"):
        AnnotationFile(three_lines)[3]


def test_a_last_line_without_newline_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1"}\n{"id": "2"}')
    assert [record["id"] for record in AnnotationFile(path)] == ["1", "2"]


def test_lines_are_found_across_scan_blocks(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    text = "x" * 1_000_000
    write_annotations(path, ({"id": str(number), "text": text} for number in range(40)), Caption)
    file = AnnotationFile(path)
    assert [file[index]["id"] for index in (0, 16, 17, 39)] == ["0", "16", "17", "39"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "text": ', r":2: not JSON: .* at column \d+"),
        ("[1, 2]", ":2: expected an object in braces, found list"),
        ("", ":2: the line is empty"),
        ("[" * 100_000, ":2: nested too deeply"),
    ],
    ids=["cut off", "a list", "empty", "nested"],
)
def test_a_damaged_line_is_named_by_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", '{"id": "a"}', line, '{"id": "c"}')
    file = AnnotationFile(path)
    with pytest.raises(DataError, match=message) as caught:
        file[1]
    assert str(path) in str(caught.value)
    assert file[2] == {"id": "c"}


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "\xff"}\n')
    with pytest.raises(DataError, match=":2: not UTF-8"):
        AnnotationFile(path)[1]


def test_a_record_that_does_not_fit_its_model_names_line_and_field(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", '{"id": "a", "text": "x", "stars": 9}')
    with pytest.raises(DataError, match=r"a.jsonl:1: stars: .*less than or equal to 5 \(got 9\)"):
        AnnotationFile(path).read(0, Caption)


def test_a_missing_file_and_an_empty_file_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl: No such file"):
        AnnotationFile(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match=r"empty\.jsonl: the file is empty"):
        AnnotationFile(tmp_path / "empty.jsonl")


def test_the_hash_is_that_of_the_content(three_lines: Path) -> None:
    import hashlib

    assert AnnotationFile(three_lines).sha256 == hashlib.sha256(three_lines.read_bytes()).hexdigest()


def test_it_pickles_without_its_content_and_reads_in_a_spawned_process(three_lines: Path) -> None:
    file = AnnotationFile(three_lines)
    assert b"\xc3\xa4" not in pickle.dumps(file)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [record["id"] for record in pool.apply(list, (file,))] == ["a", "b", "c"]


def test_a_file_that_changes_while_in_use_is_noticed(three_lines: Path) -> None:
    file = AnnotationFile(three_lines)
    assert file[0]["id"] == "a"
    travelling = pickle.dumps(file)
    write_annotations(three_lines, [{"id": "z", "text": "new"}], Caption)
    assert file[0]["id"] == "a", "what is mapped stays as it was"
    with pytest.raises(DataError, match="changed while it was in use"):
        pickle.loads(travelling)[0]


# --- writing ---


def test_writing_returns_the_count_and_leaves_none_out(tmp_path: Path) -> None:
    path = tmp_path / "new" / "train.jsonl"
    assert write_annotations(path, [Caption(id="1", text="é"), {"id": "2", "text": "b", "stars": 3}], Caption) == 2
    assert path.read_text(encoding="utf-8") == '{"id": "1", "text": "é"}\n{"id": "2", "text": "b", "stars": 3}\n'


def test_writing_reports_every_wrong_record_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    records = [{"id": "1", "text": "a"}, {"id": "2"}, {"id": "1", "text": "b", "stars": 0}, {"id": "1", "text": "c"}]
    with pytest.raises(DataError) as caught:
        write_annotations(path, records, Caption)
    assert [problem.removeprefix(str(path)) for problem in caught.value.problems] == [
        ":2: text: field required",
        ":3: stars: input should be greater than or equal to 1 (got 0)",
        ":4: id: '1' is already the id of line 1",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(three_lines: Path) -> None:
    before = three_lines.read_bytes()
    with pytest.raises(DataError):
        write_annotations(three_lines, [{"id": 1}], Caption)
    with pytest.raises(DataError, match="nothing to write"):
        write_annotations(three_lines, [], Caption)
    assert three_lines.read_bytes() == before
    assert list(three_lines.parent.iterdir()) == [three_lines]


def test_many_problems_are_cut_short() -> None:
    assert first_few([str(number) for number in range(1030)], shown=2) == ["0", "1", "... and 1,028 more"]
    assert first_few(["a"]) == ["a"]


# --- validating ---


def test_a_sound_file_has_no_problems(three_lines: Path) -> None:
    assert validate_annotations(three_lines, Caption) == []


def test_validation_names_every_line_and_field(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        '{"id": "1", "text": "a"}',
        '{"id": "2", "txt": "a"}',
        "{",
        '{"id": "1", "text": "b"}',
    )
    assert [problem.removeprefix(str(path)) for problem in validate_annotations(path, Caption)] == [
        ":2: text: field required",
        ":2: txt: extra inputs are not permitted (got 'a')",
        ":3: not JSON: Expecting property name enclosed in double quotes at column 2",
        ":4: id: '1' is already the id of line 1",
    ]


def test_validating_an_empty_or_missing_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert validate_annotations(tmp_path / "empty.jsonl", Caption) == [f"{tmp_path}/empty.jsonl: the file is empty"]
    assert "No such file" in validate_annotations(tmp_path / "none.jsonl", Caption)[0]


# --- pickles ---

PLAIN = [{"id": 9, "words": ["hat", "über"], "box": (1.5, -2.0), "none": None, "big": 1 << 80, "flag": True}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_load_from_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    assert load_plain_pickle(path) == PLAIN


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"(lp0\nS'caf\\xc3\\xa9'\np1\na.", ["café"]),
        (b"(lp0\nS'caf\\xe9'\np1\na.", ["café"]),
        (b"\x80\x02]q\x00U\x03hatq\x01a.", ["hat"]),
    ],
    ids=["utf-8", "latin-1", "protocol 2"],
)
def test_strings_of_python_2_are_read(content: bytes, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    assert load_plain_pickle(path) == expected


class _RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ref_id": 1}, _RunsCode(marker)], protocol=protocol))
    with pytest.raises(DataError, match=r"refs.p: refused to load 'posix.mkdir'") as caught:
        load_plain_pickle(path)
    assert not marker.exists()
    assert caught.value.exit_status == 5


@pytest.mark.parametrize(
    "content",
    [b"cbuiltins\neval\n(S'1'\ntR.", b"\x82\x01.", b"\x8c\x02os\x8c\x06system\x93."],
    ids=["global", "extension code", "stack global"],
)
def test_no_other_way_to_a_name_is_open(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_plain_pickle(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x02]q", b"PK\x03\x04 not a pickle", b"\x80\x63"])
def test_a_damaged_pickle_is_a_data_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"refs\.p: not a readable pickle"):
        load_plain_pickle(path)


def test_a_missing_pickle_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_plain_pickle(tmp_path / "refs.p")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    """Editors write one; the check of a file and a run read the same."""
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "1"}\n{"id": "2"}\n')
    file = AnnotationFile(path)
    assert [file[index] for index in range(len(file))] == [{"id": "1"}, {"id": "2"}]
    assert validate_annotations(path, Marked) == []
    assert file.read(0, Marked).id == "1"


class Marked(BaseModel):
    id: str
