"""The builders: official files and LXMERT's become annotation files and a vocabulary, or say all that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError
from vlrun.blocks.answers import read_answers
from vlrun.data.annotations import AnnotationFile, validate_annotations
from vlrun.data.json_stream import list_items, object_items
from vlrun_gqa.build import build_lxmert, build_official
from vlrun_gqa.plugin import vlrun_datasets
from vlrun_gqa.records import GqaQuestion


def records(path: Path) -> list[dict[str, Any]]:
    return list(AnnotationFile(path))


def lxmert_row(name: Any = "0099", answer: str | None = "no", **changes: Any) -> dict[str, Any]:
    label = {} if answer is None else {"label": {answer: 1.0}}
    return {"img_id": "2370799", "question_id": name, "sent": "Is the kite red?", **label, **changes}


# --- official ---


def test_a_question_becomes_a_compact_record(source: Any, make_question: Any, tmp_path: Path) -> None:
    report = build_official(source(train_balanced_questions={"0099": make_question()}), tmp_path / "out")
    assert report.counts == {"train": 1}
    assert records(tmp_path / "out/train.jsonl") == [
        {
            "id": "0099",
            "text": "Is the kite red?",
            "image": "2370799",
            "answer": "no",
            "is_balanced": True,
            "structural": "verify",
            "semantic": "attr",
            "detailed": "verifyAttrC",
            "steps": 2,
            "entailed": ["0100"],
        }
    ]
    assert validate_annotations(tmp_path / "out/train.jsonl", GqaQuestion) == []


def test_every_official_file_has_its_split(source: Any, make_question: Any, tmp_path: Path) -> None:
    content = {"1": make_question()}
    stems = [
        f"{name}_{kind}_questions" for name in ("train", "val", "test", "challenge") for kind in ("balanced", "all")
    ]
    stems += ["submission_all_questions", "testdev_balanced_questions.subset", "testdev_all_questions"]
    report = build_official(source(**dict.fromkeys(stems, content)), tmp_path / "out")
    splits = ["train", "valid", "testdev", "test", "challenge"]
    assert sorted(report.counts) == sorted([*splits, *(f"{split}_all" for split in splits), "submission"])


def test_the_numbered_files_of_train_all_are_joined_in_order(source: Any, make_question: Any, tmp_path: Path) -> None:
    stem = "train_all_questions__train_all_questions_"
    files = {f"{stem}{number}": {f"0{number}": make_question()} for number in range(10) if number != 4}
    report = build_official(source(**files), tmp_path / "out")
    assert [record["id"] for record in records(tmp_path / "out/train_all.jsonl")] == [
        f"0{number}" for number in range(10) if number != 4
    ]
    assert "split 'train_all': files 4 of 10 are not there" in report.remarks


def test_a_question_of_two_numbered_files_is_an_error(source: Any, make_question: Any, tmp_path: Path) -> None:
    stem = "train_all_questions__train_all_questions_"
    folder = source(**{f"{stem}{number}": {"0099": make_question()} for number in range(2)})
    with pytest.raises(DataError, match=r"train_all.jsonl:2: id: '0099' is already the id of line 1"):
        build_official(folder, tmp_path / "out")


def test_hidden_answers_leave_records_without_answer(source: Any, tmp_path: Path) -> None:
    question = {"question": "Is it red?", "imageId": "n7", "isBalanced": False}
    report = build_official(source(submission_all_questions={"07": question}), tmp_path / "out")
    assert records(tmp_path / "out/submission.jsonl") == [
        {"id": "07", "text": "Is it red?", "image": "n7", "is_balanced": False}
    ]
    assert (
        "split 'submission': answers are hidden; it can be predicted, and scored by the server only" in report.remarks
    )


def test_choices_are_kept_with_balanced_questions(source: Any, make_question: Any, tmp_path: Path) -> None:
    choices = {"valid": ["yes", "no"], "plausible": ["no"]}
    folder = source(
        val_all_questions={"01": make_question(), "02": make_question(isBalanced=False)},
        val_choices={"01": choices, "02": choices},
    )
    build_official(folder, tmp_path / "out")
    first, second = records(tmp_path / "out/valid_all.jsonl")
    assert (first["valid"], first["plausible"]) == (["yes", "no"], ["no"])
    assert "valid" not in second


def test_balanced_questions_without_choices_are_counted(source: Any, make_question: Any, tmp_path: Path) -> None:
    common = make_question(types={"structural": "query", "semantic": "attr", "detailed": "twoCommon"})
    questions = {"01": make_question(), "02": make_question(), "03": common}
    folder = source(val_balanced_questions=questions, val_choices={"01": {"valid": ["no"], "plausible": ["no"]}})
    remarks = build_official(folder, tmp_path / "out").remarks
    assert any(
        remark.startswith("split 'valid': 1 balanced questions are not in the choices file") for remark in remarks
    )


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (["select: kite (3)", "verify color: red"], 2),
        (["select: kite (3)", "exist: ?", "select: dog (-)", "exist: ?", "or: "], 3),
        (["select: kite (3)", "relate: _,left,s (1)", "query: name"], 2),
        (["select: kite (3)", "query: color"], 2),
        (["select: kite (3)", "choose name: kite|dog"], 1),
        (["select: existing thing (3)"], 0),
    ],
    ids=["two", "existence", "name", "query", "choose name", "a plain substring test"],
)
def test_steps_are_counted_as_the_evaluator_does(
    operations: list[str], expected: int, source: Any, make_question: Any, tmp_path: Path
) -> None:
    semantic = [
        {"operation": name, "argument": argument, "dependencies": []}
        for name, _, argument in (text.partition(": ") for text in operations)
    ]
    build_official(source(train_balanced_questions={"1": make_question(semantic=semantic)}), tmp_path / "out")
    assert records(tmp_path / "out/train.jsonl")[0]["steps"] == expected


def test_all_problems_of_all_files_are_reported_at_once(source: Any, make_question: Any, tmp_path: Path) -> None:
    folder = source(
        train_balanced_questions={"01": make_question(imageId=2370799), "02": {"imageId": "7"}, "03": "?"},
        val_balanced_questions={"04": make_question(), "05": make_question(entailed=[6])},
    )
    with pytest.raises(DataError) as caught:
        build_official(folder, tmp_path / "out")
    assert [problem.removeprefix(f"{folder}/") for problem in caught.value.problems] == [
        "train_balanced_questions.json: question '01': imageId: input should be a valid string (got 2370799)",
        "train_balanced_questions.json: question '02': question: field required",
        "train_balanced_questions.json: question '03': input should be a valid dictionary or instance of "
        "_OfficialQuestion (got '?')",
        "val_balanced_questions.json: question '05': entailed.0: input should be a valid string (got 6)",
    ]
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "choices",
    [
        ["no"],
        {"valid": ["no"]},
        {"valid": ["no"], "plausible": "no"},
        {"valid": ["no"], "plausible": [["no"]]},
        {"valid": [1], "plausible": ["no"]},
    ],
    ids=["list", "one is missing", "text", "list of lists", "number"],
)
def test_damaged_choices_are_named(choices: Any, source: Any, make_question: Any, tmp_path: Path) -> None:
    folder = source(val_balanced_questions={"01": make_question()}, val_choices={"01": choices})
    message = r"val_choices.json: question '01': expected lists 'valid' and 'plausible' of texts"
    with pytest.raises(DataError, match=message):
        build_official(folder, tmp_path / "out")


@pytest.mark.parametrize(("build", "wanted"), [(build_official, "val_balanced"), (build_lxmert, "testdev.json")])
def test_a_folder_without_questions_says_what_to_get(
    build: Callable[..., Any], wanted: str, source: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"expected some of .*{wanted}.*\(found: scenes.json\).*https://"):
        build(source(scenes={}), tmp_path / "out")


def test_two_files_for_a_split_are_refused(source: Any, make_question: Any, tmp_path: Path) -> None:
    content = {"1": make_question()}
    folder = source(**{"train_balanced_questions": content, "train_balanced_questions.subset": content})
    with pytest.raises(DataError, match="are for the same split; leave one"):
        build_official(folder, tmp_path / "out")


def test_a_nearly_complete_split_of_another_size_gets_a_remark(source: Any, make_question: Any, tmp_path: Path) -> None:
    questions = {str(number): {"question": "?", "imageId": "n7"} for number in range(50_000)}
    remarks = build_official(source(challenge_balanced_questions=questions), tmp_path / "out").remarks
    assert "split 'challenge' has 50,000 questions; published are 50,726" in remarks


# --- LXMERT ---


def test_lxmerts_rows_become_records_without_types(source: Any, tmp_path: Path) -> None:
    folder = source(train=[lxmert_row()], submit=[lxmert_row("07", None)])
    report = build_lxmert(folder, tmp_path / "out")
    assert report.counts == {"train": 1, "submission": 1}
    assert records(tmp_path / "out/train.jsonl") == [
        {"id": "0099", "text": "Is the kite red?", "image": "2370799", "answer": "no"}
    ]
    assert "answer" not in records(tmp_path / "out/submission.jsonl")[0]
    assert "accuracy is the only score" in report.remarks[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (lxmert_row(99), r"item 1 \(question 99\): question_id: should be text.*01827492 and 1827492 are different"),
        (lxmert_row(label={}), r"item 1 \(question '0099'\): label: should be one answer with score 1"),
        (lxmert_row(label={"yes": 0.3}), "label: should be one answer"),
        (lxmert_row(img_id=7), "img_id: input should be a valid string"),
        ([], r"item 1 \(question None\): input should be a valid dictionary"),
    ],
    ids=["number", "no answer", "soft", "image", "list"],
)
def test_a_wrong_row_is_named(row: Any, message: str, source: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        build_lxmert(source(testdev=[lxmert_row("01"), row]), tmp_path / "out")


@pytest.mark.samples
@pytest.mark.parametrize(("name", "count"), [("official", 1_427), ("lxmert", 9_046)])
def test_real_files_become_valid_annotations(name: str, count: int, samples: Path, tmp_path: Path) -> None:
    (entry,) = vlrun_datasets()
    builder = next(builder for builder in entry.builders if builder.source == name)
    assert builder.build(samples / "gqa", tmp_path).counts == {"testdev": count}
    assert validate_annotations(tmp_path / "testdev.jsonl", GqaQuestion) == []


# --- vocabulary ---


def test_the_published_vocabulary_keeps_its_order(source: Any, tmp_path: Path) -> None:
    rows = [lxmert_row("01", "no"), lxmert_row("02", "dock"), lxmert_row("03", "unheard of")]
    folder = source(train=rows, testdev=[lxmert_row("04", "no")], trainval_label2ans=["dock", "no"])
    remarks = build_lxmert(folder, tmp_path / "out").remarks
    assert read_answers(tmp_path / "out/answers.json").answers == ("dock", "no")
    assert "answers.json: the 2 answers of trainval_label2ans.json, in its order" in remarks
    assert "split 'train': 1 of 3 questions have an answer outside the vocabulary; they can never be right" in remarks


def test_without_it_all_training_answers_are_taken_by_frequency(source: Any, tmp_path: Path) -> None:
    folder = source(
        train=[lxmert_row("01", "no"), lxmert_row("02", "dock")],
        valid=[lxmert_row("03", "no"), lxmert_row("04", "cat")],
        testdev=[lxmert_row("05", "horse")],
    )
    remarks = build_lxmert(folder, tmp_path / "out").remarks
    assert read_answers(tmp_path / "out/answers.json").answers == ("no", "cat", "dock")
    assert "answers.json: all 3 answers of train and valid, the most frequent first (threshold: once)" in remarks
    assert "split 'testdev': 1 of 1 questions have an answer outside the vocabulary; they can never be right" in remarks


def test_the_answers_of_train_all_serve_where_there_is_no_train(
    source: Any, make_question: Any, tmp_path: Path
) -> None:
    build_official(source(train_all_questions={"1": make_question()}), tmp_path / "out")
    assert read_answers(tmp_path / "out/answers.json").answers == ("no",)


def test_without_training_questions_no_vocabulary_is_made(source: Any, tmp_path: Path) -> None:
    remarks = build_lxmert(source(testdev=[lxmert_row()]), tmp_path / "out").remarks
    assert remarks[-1].startswith("no answers.json, as there are no training questions")
    assert not (tmp_path / "out/answers.json").exists()


# --- reading item by item ---


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_items_come_in_the_order_of_the_file(indent: int | None, mark: bytes, tmp_path: Path) -> None:
    content = {"01": {'é, \\" }': [1.5, None, "x]"]}, "1": {}, "": {"a": {"b": [[]]}}}
    path = tmp_path / "file.json"
    path.write_bytes(mark + json.dumps(content, indent=indent, ensure_ascii=False).encode())
    assert list(object_items(path, "an object")) == list(content.items())
    path.write_text(json.dumps(list(content.values()), indent=indent), encoding="utf-8")
    assert list(list_items(path, "a list")) == list(content.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": {"question": "Is it', "cut off before its end; get or write it again"),
        ('{"1": {}, "2": {}', "cut off before its end"),
        ('{"1": {}, ', "cut off before its end"),
        ('{"1": {},, "2": {}}', "not readable JSON: "),
        ('{"1": {} "2": {}}', "not readable JSON: "),
        ('{"1": {}} {', "not readable JSON: .*trailing"),
        ("[]", r"expected an object; the file starts with '\[\]'"),
        ("", "expected an object; the file starts with ''"),
        ("\udcff", "the file starts with"),
    ],
)
def test_a_damaged_file_says_how(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        list(object_items(path, "an object"))


def test_an_empty_object_has_no_items(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("{}\n")
    assert list(object_items(tmp_path / "empty.json", "an object")) == []
