"""The server's file: written as it wants it, and read with everything that it would not understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError, Prediction
from vlrun_gqa.plugin import vlrun_submissions
from vlrun_gqa.submission import official_ids, read_submission, write_submission


@pytest.mark.golden
def test_the_file_holds_what_lxmerts_program_dumps(outputs: dict[str, Any], tmp_path: Path) -> None:
    predictions = [Prediction(name, {"answer": answer, "score": 0.5}) for name, answer in outputs["dumped"]]
    assert predictions
    write_submission(predictions, tmp_path / "submit.json")
    assert json.loads((tmp_path / "submit.json").read_text()) == json.loads(outputs["file"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_written_can_be_read(count: int, tmp_path: Path) -> None:
    ids = [f"0{number}" for number in range(count)]
    write_submission([Prediction(name, {"answer": "café"}) for name in ids], tmp_path / "submit.json")
    assert read_submission(tmp_path / "submit.json").ids == ids
    assert read_submission(tmp_path / "submit.json").problems == []


def test_wrong_rows_are_all_located_and_an_integer_id_says_why(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"questionId": "01", "prediction": "yes"},
        {"questionId": 1827492, "prediction": "yes"},
        {"questionId": "03", "prediction": None},
        {"question_id": "04", "answer": "yes"},
        "05",
        {"questionId": "01", "prediction": "no"},
    ]
    path = tmp_path / "submit.json"
    path.write_text(json.dumps(rows))
    found = read_submission(path)
    assert found.ids == ["01", "1827492", "03", "01"]
    assert found.problems == [
        "row 1: questionId is the number 1827492; it must be text: 01827492 and 1827492 are different questions",
        "row 2: prediction should be text, it is None",
        "row 3: has no questionId",
        "row 3: has no prediction",
        "row 4: expected an object with questionId and prediction, found '05'",
    ]


def test_a_file_that_is_wrong_on_every_row_fills_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "submit.json"
    path.write_text(json.dumps([{"questionId": number, "prediction": "no"} for number in range(1_500)]))
    found = read_submission(path)
    assert len(found.ids) == 1_500
    assert found.problems[-1] == "... and 500 more problems"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"questionId": "01", "prediction": "y', "cut off before its end"),
        ('{"01": "yes"}', "expected a JSON list of .*questionId.*starts with"),
        ('{"id": "01", "answer": "yes"}\n{"id": "02"}\n', "expected a JSON list"),
    ],
    ids=["truncated", "object", "our own predictions"],
)
def test_another_kind_of_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "submit.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_submission(tmp_path / "submit.json")


def test_official_ids_are_the_keys_of_an_official_file(make_question: Any, source: Any) -> None:
    folder = source(testdev_balanced_questions={"0099": make_question(), "099": make_question()})
    assert official_ids(folder / "testdev_balanced_questions.json") == ["0099", "099"]


def test_another_official_file_is_refused(source: Any) -> None:
    folder = source(val_choices={"0099": {"valid": [], "plausible": []}})
    with pytest.raises(DataError, match="'0099' is no question"):
        official_ids(folder / "val_choices.json")


@pytest.mark.samples
def test_the_ids_of_a_real_file_fit_predictions_for_it(golden: Path, samples: Path) -> None:
    rows = read_submission(golden / "metrics/gqa/real_testdev/predictions.json")
    assert rows.problems == []
    assert sorted(rows.ids) == sorted(official_ids(samples / "gqa/testdev_balanced_questions.subset.json"))


def test_each_phase_names_its_splits() -> None:
    assert {entry.name: entry.splits[0] for entry in vlrun_submissions()} == {
        "gqa-submission": "submission",
        "gqa-testdev": "testdev",
        "gqa-valid": "valid",
    }
    assert {entry.dataset for entry in vlrun_submissions()} == {"gqa"}
