"""The file that the official scorer takes: written as LXMERT writes it, read with every problem in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError, Prediction, SubmissionRows
from vlrun_nlvr2.plugin import vlrun_submissions
from vlrun_nlvr2.submission import read_csv, read_submission, write_csv


def write(path: Path, text: str) -> Path:
    path.write_text(text, newline="")
    return path


def test_predictions_become_identifiers_and_words_without_a_header(tmp_path: Path) -> None:
    made = [Prediction("dev-1-0-0", {"label": True, "score": 0.9}), Prediction("dev-1-0-1", {"label": False})]
    write_csv(made, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "dev-1-0-0,True\ndev-1-0-1,False\n"


@pytest.mark.golden
def test_the_file_is_that_of_lxmerts_code(golden: Path, tmp_path: Path, task: Any) -> None:
    theirs = json.loads((golden / "lxmert_s/nlvr2_predict_example.json").read_text())
    made = [Prediction(theirs["identifier"][uid], {"label": bool(label)}) for uid, label in theirs["predictions"]]
    assert made
    task.write_submission(made, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == theirs["file_text"]
    assert task.submission_suffix == ".csv"


def test_case_order_line_ends_and_further_columns_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "dev-2-0-0,FALSE\r\ndev-1-0-0,true,0.93,x\ndev-1-0-1,True")
    assert [(row.id, row.fields["label"]) for row in read_csv(path)] == [
        ("dev-2-0-0", False),
        ("dev-1-0-0", True),
        ("dev-1-0-1", True),
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = [Prediction("dev-1-0-0", {"label": True}), Prediction("dev-1-0-1", {"label": False})]
    write_csv(made, tmp_path / "p.csv")
    assert read_csv(tmp_path / "p.csv") == made


def test_ids_keep_the_order_of_the_file_and_their_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "dev-2-0-0,True\ndev-1-0-0,True\ndev-2-0-0,False\n")
    assert read_submission(path) == SubmissionRows(["dev-2-0-0", "dev-1-0-0", "dev-2-0-0"])


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.csv", "identifier,prediction\ndev-1-0-0,maybe\ndev-1-1-0\n\ndev-1-2-0, True\ndev-1-3-0,1\n"
    )
    rows = read_submission(path)
    assert rows.ids == ["identifier", "dev-1-0-0", "dev-1-2-0", "dev-1-3-0"]
    assert [problem.removeprefix(f"{path}:") for problem in rows.problems] == [
        "1: 'prediction' is neither True nor False",
        "2: 'maybe' is neither True nor False",
        "3: expected two columns as in dev-850-0-1,True",
        "4: expected two columns as in dev-850-0-1,True",
        "5: ' True' is neither True nor False",
        "6: '1' is neither True nor False",
    ]
    with pytest.raises(DataError, match=r"p\.csv:2: 'maybe' is neither"):
        read_csv(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dev-1-0-0,True\ndev-1-1-0,Tr", "2: 'Tr' is neither True nor False; the file ends in the middle of this line"),
        ("dev-1-0-0,True\ndev-1", "2: expected two columns as in .*; the file ends in the middle of this line"),
    ],
    ids=["in the word", "in the identifier"],
)
def test_a_file_that_was_cut_off_is_told_from_a_wrong_word(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(write(tmp_path / "p.csv", text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; expected lines such as dev-850-0-1,True"),
        (b"\n \n", "the file is empty"),
        (b'[{"identifier": "dev-1-0-0"}]', "looks like JSON; expected lines such as dev-850-0-1,True"),
        (b"dev-1-0-0,True\n\xff\xfe", r"not a text file in UTF-8 \(byte 15\)"),
    ],
    ids=["empty", "blank", "JSON", "binary"],
)
def test_a_file_of_another_kind_is_no_submission(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_submission(tmp_path / "p.csv")


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_submission(tmp_path / "p.csv")


def test_every_test_split_has_a_format_and_its_ids_come_from_the_official_file(archive: Any, tmp_path: Path) -> None:
    formats = {entry.name: entry for entry in vlrun_submissions()}
    assert {name: entry.splits for name, entry in formats.items()} == {
        "nlvr2-dev": ("dev",),
        "nlvr2-test1": ("test1",),
        "nlvr2-test2": ("test2",),
    }
    assert {entry.dataset for entry in formats.values()} == {"nlvr2"}
    ids = formats["nlvr2-dev"].official_ids(archive.write() / "dev.json")
    assert ids == ["dev-850-0-0", "dev-850-0-1", "dev-850-2-0"]
    path = write(tmp_path / "p.csv", "".join(f"{name},True\n" for name in ids))
    assert formats["nlvr2-dev"].read(path) == SubmissionRows(ids)


def test_a_damaged_official_list_is_an_error_with_its_line(archive: Any) -> None:
    archive.files["dev.json"][1]["identifier"] = "dev-850"
    (entry, *_) = vlrun_submissions()
    with pytest.raises(DataError, match=r"dev\.json:2: identifier: should be split-set-pair-sentence"):
        entry.official_ids(archive.write() / "dev.json")


@pytest.mark.golden
def test_a_file_that_the_official_script_scores_passes(official_csv: Callable[[str], Path], real_dev: Any) -> None:
    rows = read_submission(official_csv("dev.group_correlated_mixed_case_shuffled.csv"))
    assert rows.problems == []
    assert sorted(rows.ids) == sorted(example.id for example in real_dev)


@pytest.mark.samples
def test_identifiers_of_the_real_file(samples: Path) -> None:
    (entry,) = [entry for entry in vlrun_submissions() if entry.name == "nlvr2-test1"]
    path = samples / "nlvr2/test1.json"
    ids = entry.official_ids(path)
    assert len(ids) == len(set(ids)) == 6_967
    assert ids[0] == json.loads(path.read_text().splitlines()[0])["identifier"]
