"""The server's file: what is written can be read, and whatever the server would refuse is said, with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError, Prediction
from vlrun_vqa.plugin import vlrun_submissions
from vlrun_vqa.submission import official_ids, read_results, write_results


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.json"


def test_ids_become_numbers_in_the_order_given(path: Path) -> None:
    write_results([Prediction("42001", {"answer": "café", "score": 0.5}), Prediction("9000", {"answer": ""})], path)
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"question_id": 42001, "answer": "café"},
        {"question_id": 9000, "answer": ""},
    ]
    rows = read_results(path)
    assert (rows.ids, rows.problems) == (["42001", "9000"], [])


@pytest.mark.golden
@pytest.mark.parametrize("name", ["synthetic", "real"])
def test_official_files_are_read_without_complaint(name: str, golden: Path) -> None:
    folder = golden / "metrics/vqa" / name
    rows = read_results(folder / "results.json")
    assert rows.problems == []
    assert sorted(rows.ids) == sorted(official_ids(folder / "questions.json"))


@pytest.mark.golden
def test_the_file_is_that_of_lxmerts_code(golden: Path, path: Path) -> None:
    theirs = json.loads((golden / "lxmert_s/vqa_predict_example.json").read_text())
    assert theirs["predictions"]
    write_results([Prediction(str(name), {"answer": answer}) for name, answer in theirs["predictions"]], path)
    assert json.loads(path.read_text()) == json.loads(theirs["file_text"])


@pytest.mark.golden
def test_repeated_ids_are_kept(golden: Path) -> None:
    path = golden / "metrics/vqa/synthetic/results_duplicate_id.json"
    ids = [str(row["question_id"]) for row in json.loads(path.read_text())]
    assert len(ids) > len(set(ids))
    assert read_results(path).ids == ids


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (Prediction("n7", {"answer": "x"}), "prediction 'n7': the id is no question_id"),
        (Prediction("7", {}), "prediction '7': answer should be text, it is None"),
    ],
)
def test_what_the_server_cannot_take_is_not_written(prediction: Prediction, message: str, path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write_results([prediction], path)
    assert not path.exists()


def test_every_wrong_entry_is_located(path: Path) -> None:
    entries: list[Any] = [
        {"question_id": 1, "answer": "a"},
        {"question_id": "2", "answer": "b"},
        {"question_id": 3, "answer": 3},
        {"question_id": 4},
        {"questionId": "5", "prediction": "e"},  # GQA's keys
        "f",
        {"question_id": True, "answer": None},
        {"question_id": 8, "answer": "h", "score": 0.5},
    ]
    path.write_text(json.dumps(entries))
    rows = read_results(path)
    assert rows.ids == ["1", "2", "3", "4", "8"]
    assert [problem.removeprefix("entry ") for problem in rows.problems] == [
        "1 (question 2): question_id should be a whole number without quotes, it is '2'",
        "2 (question 3): answer should be text, it is 3",
        "3 (question 4): there is no answer",
        "4: there is no question_id",
        "4: there is no answer",
        "4: there is a key 'prediction', which the server does not know",
        "4: there is a key 'questionId', which the server does not know",
        "5: expected an object with question_id and answer, found 'f'",
        "6: question_id should be a whole number without quotes, it is True",
        "6: answer should be text, it is None",
        "7 (question 8): there is a key 'score', which the server does not know",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"question_id": 1, "answer": "a"},', "it ends too early: was it cut off"),
        ('[{"question_id": 1, "ans', "it ends too early: was it cut off"),
        ('[{"question_id": 1', "it ends too early: was it cut off"),
        ("", "it ends too early: was it cut off"),
        ('{"id": "1", "answer": "a"}\n{"id": "2", "answer": "b"}', ":2: not readable JSON: Extra data"),
        ('{"1": "a"}', "expected a JSON list, found dict"),
        ('"a"', "expected a JSON list, found str"),
    ],
)
def test_what_is_no_such_file_is_refused(content: str, message: str, path: Path) -> None:
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_results(path)


def test_a_missing_file_is_a_data_error(path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_results(path)


def test_official_questions_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"questions": [{"question_id": 7}, {"question_id": 3}]}).encode()))
    assert official_ids(path) == ["7", "3"]


@pytest.mark.parametrize("content", [[], {"annotations": []}, {"questions": [{"question_id": "7"}]}])
def test_other_files_are_not_official_questions(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"official questions file|question 0: question_id should be"):
        official_ids(path)


def test_each_phase_takes_its_splits() -> None:
    assert {entry.name: (entry.dataset, entry.splits) for entry in vlrun_submissions()} == {
        "vqav2-test-dev": ("vqav2", ("test-dev", "test")),
        "vqav2-test": ("vqav2", ("test",)),
        "vqav2-val": ("vqav2", ("val",)),
        "vqav2-minival": ("vqav2", ("minival",)),
    }
