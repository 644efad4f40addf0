"""The builder for the official files: annotation files and a vocabulary, or everything that is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError
from vlrun.blocks.answers import read_answers
from vlrun.data.annotations import validate_annotations
from vlrun_vqa.build_official import build_official
from vlrun_vqa.records import VqaQuestion

Records = Callable[[Path], list[dict[str, Any]]]


def ids(records: Records, path: Path) -> list[str]:
    return [record["id"] for record in records(path)]


def test_questions_get_their_answers_by_id(archive: Any, records: Records, tmp_path: Path) -> None:
    report = build_official(archive.write(), tmp_path / "out")
    assert report.counts == {"train": 3, "val": 3, "test": 1}
    assert records(tmp_path / "out/train.jsonl")[0] == {
        "id": "9000",
        "text": "Is it red?",
        "image": "COCO_train2014_000000000009",
        "answers": ["yes", *["no"] * 9],
        "answer_type": "yes/no",
        "question_type": "is it",
    }
    assert ids(records, tmp_path / "out/val.jsonl") == ["42000", "42001", "73000"]
    assert records(tmp_path / "out/test.jsonl") == [
        {"id": "1000", "text": "Is it red?", "image": "COCO_test2015_000000000001"}
    ]
    assert all(validate_annotations(path, VqaQuestion) == [] for path in (tmp_path / "out").glob("*.jsonl"))


def test_any_part_will_do(archive: Any, tmp_path: Path) -> None:
    archive.questions = {"test-dev2015": archive.questions["test2015"]}
    archive.annotations = {}
    report = build_official(archive.write(), tmp_path / "out")
    assert report.counts == {"test-dev": 1}
    assert report.remarks == ("no answers.json was written: it is made from the answers of train, which is missing",)
    assert "COCO_test2015_000000000001" in (tmp_path / "out/test-dev.jsonl").read_text()


@pytest.mark.parametrize("subtype", ["val2014", "minival2014"])
def test_images_of_minival_are_those_of_val(
    subtype: str, archive: Any, records: Records, tmp_path: Path, make_annotation: Any
) -> None:
    archive.questions = {"minival2014": archive.questions["val2014"][:1]}
    archive.annotations = {"minival2014": [make_annotation(42000, "yes")]}
    archive.subtypes = {"minival2014": subtype}
    build_official(archive.write(), tmp_path / "out")
    assert records(tmp_path / "out/minival.jsonl")[0]["image"] == "COCO_val2014_000000000042"


# --- names of files ---


def test_names_may_carry_more_and_files_may_be_compressed(archive: Any, tmp_path: Path) -> None:
    archive.extra = ".subset"
    for path in archive.write().iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert build_official(archive.folder, tmp_path / "out").counts == {"train": 3, "val": 3, "test": 1}


def test_the_official_name_wins(archive: Any, tmp_path: Path) -> None:
    archive.write()
    archive.questions, archive.annotations, archive.extra = {"train2014": []}, {"train2014": []}, ".small"
    assert build_official(archive.write(), tmp_path / "out").counts["train"] == 3


def test_of_several_files_the_user_chooses(archive: Any, tmp_path: Path) -> None:
    archive.extra = ".small"
    archive.write()
    archive.extra = ".subset"
    archive.write()
    with pytest.raises(DataError, match=r"of train2014: .*small.json, .*subset.json; give one of them instead"):
        build_official(archive.folder, tmp_path / "out")
    chosen = archive.folder / "v2_OpenEnded_mscoco_val2014_questions.subset.json"
    assert build_official(chosen, tmp_path / "out").counts == {"val": 3}


def test_a_folder_without_such_files_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "v2_mscoco_val_annotations.json").write_text("{}")
    with pytest.raises(DataError, match=r"found: v2_mscoco_val_annotations.json\).*v2_Questions_"):
        build_official(tmp_path, tmp_path / "out")


def test_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "OpenEnded_mscoco_val2014_questions.json"  # of version 1
    path.write_text("{}")
    with pytest.raises(DataError, match="is not named like a questions file of VQA v2"):
        build_official(path, tmp_path / "out")


def test_an_archive_that_is_still_packed_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unpack the archive first"):
        build_official(tmp_path / "v2_Questions_Val_mscoco.zip", tmp_path / "out")


def test_questions_and_annotations_belong_together(archive: Any, tmp_path: Path) -> None:
    del archive.annotations["train2014"], archive.questions["val2014"]
    with pytest.raises(DataError) as caught:
        build_official(archive.write(), tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert "train2014_questions.json: there are no annotations beside it" in caught.value.problems[0]
    assert "val2014_annotations.json: there are no questions beside it" in caught.value.problems[1]


def test_a_file_under_another_name_is_recognised(archive: Any, tmp_path: Path) -> None:
    archive.subtypes = {"train2014": "val2014"}
    with pytest.raises(DataError, match="is named as train2014, but its data_subtype is 'val2014'"):
        build_official(archive.write(), tmp_path / "out")


# --- what is wrong inside ---


def test_all_join_errors_are_reported_at_once_and_nothing_is_written(
    archive: Any, tmp_path: Path, make_annotation: Any, make_question: Any
) -> None:
    archive.questions["train2014"] += [make_question(26000), make_question(9000)]
    archive.annotations["train2014"] += [make_annotation(27000, "x"), make_annotation(9001, "x")]
    archive.annotations["val2014"][0]["image_id"] = 74
    archive.annotations["val2014"][1]["answers"] = []
    archive.annotations["val2014"][2]["answers"][3] = {"answer_id": 4}
    with pytest.raises(DataError) as caught:
        build_official(archive.write(), tmp_path / "out")
    v2 = f"{archive.folder}/v2_"
    assert [problem.removeprefix(v2) for problem in caught.value.problems] == [
        "OpenEnded_mscoco_train2014_questions.json: question 9000: question 9000 occurs twice",
        "mscoco_train2014_annotations.json: question 27000: no such question in "
        "v2_OpenEnded_mscoco_train2014_questions.json",
        "mscoco_train2014_annotations.json: question 9001: occurs twice",
        "OpenEnded_mscoco_train2014_questions.json: question 26000: is not in v2_mscoco_train2014_annotations.json",
        "mscoco_val2014_annotations.json: question 73000: image_id is 74, but the question is about "
        "COCO_val2014_000000000073",
        "mscoco_val2014_annotations.json: question 42000: answers: list should have at least 1 item after validation, "
        "not 0 (got [])",
        "mscoco_val2014_annotations.json: question 42001: answers.3.answer: field required",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["question_id", "image_id", "question"])
def test_a_missing_key_is_named(key: str, archive: Any, tmp_path: Path) -> None:
    del archive.questions["train2014"][1][key]
    with pytest.raises(DataError, match=rf"train2014_questions.json: (row 1|question 9001): {key}: field required"):
        build_official(archive.write(), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cut off before its end"),
        ('{"questions": [}', "not readable JSON"),
        ("[]", "expected an object with a list of questions"),
        ('{"questions": 3}', "there is no list 'questions' in it"),
    ],
)
def test_damaged_files_are_data_errors(content: str, message: str, archive: Any, tmp_path: Path) -> None:
    (archive.write() / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(content)
    with pytest.raises(DataError, match=message):
        build_official(archive.folder, tmp_path / "out")


def test_a_cut_off_compressed_file_is_a_data_error(archive: Any, tmp_path: Path) -> None:
    path = archive.write() / "v2_mscoco_val2014_annotations.json"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    with pytest.raises(DataError, match=r"annotations\.json\.gz: not readable gzip"):
        build_official(archive.folder, tmp_path / "out")


# --- annotators ---


def test_annotators_are_stored_only_where_they_cannot_be_told_apart(
    archive: Any, records: Records, tmp_path: Path
) -> None:
    unnamed, repeated = archive.annotations["train2014"][0]["answers"], archive.annotations["train2014"][1]["answers"]
    for answer in unnamed:
        del answer["answer_id"]
    unnamed[9]["answer_confidence"] = "maybe"
    repeated[2]["answer_id"] = 1
    build_official(archive.write(), tmp_path / "out")
    found = records(tmp_path / "out/train.jsonl")
    assert found[0]["annotators"] == [0] * 9 + [1]
    assert found[1]["annotators"] == [0, 1, 0, 2, 3, 4, 5, 6, 7, 8]
    assert "annotators" not in found[2]


# --- minival ---


def test_nominival_is_val_without_minival(
    archive: Any, records: Records, tmp_path: Path, make_question: Any, make_annotation: Any
) -> None:
    archive.questions["minival2014"] = [make_question(42001)]
    archive.annotations["minival2014"] = [make_annotation(42001, *["a", "b"] * 5)]
    report = build_official(archive.write(), tmp_path / "out")
    assert report.counts == {"train": 3, "val": 3, "minival": 1, "test": 1, "nominival": 2}
    assert ids(records, tmp_path / "out/nominival.jsonl") == ["42000", "73000"]
    assert records(tmp_path / "out/minival.jsonl")[0]["answers"] == ["a", "b"] * 5
    assert "split 'val' holds 1 of the 1 questions of 'minival'" in report.remarks[0]


@pytest.mark.parametrize("source", ["questions", "lxmert"])
def test_a_list_of_minival_is_enough(
    source: str, archive: Any, records: Records, tmp_path: Path, make_question: Any
) -> None:
    if source == "questions":
        archive.questions["minival2014"] = [make_question(73000), make_question(42000)]
    folder = archive.write()
    if source == "lxmert":
        listed = [{"question_id": number} for number in (73000, 42000, 73000)]
        (folder / "minival.json").write_text(json.dumps(listed))
    build_official(folder, tmp_path / "out")
    assert ids(records, tmp_path / "out/minival.jsonl") == ["73000", "42000"]
    assert all(len(record["answers"]) == 10 for record in records(tmp_path / "out/minival.jsonl"))
    assert ids(records, tmp_path / "out/nominival.jsonl") == ["42001"]


@pytest.mark.parametrize("other", [5, "five", "042001"])
def test_minival_is_a_part_of_val(archive: Any, tmp_path: Path, other: Any) -> None:
    (archive.write() / "minival.json").write_text(json.dumps([{"question_id": 42000}, {"question_id": other}]))
    with pytest.raises(DataError, match=f"question {other} of minival is not one of val"):
        build_official(archive.folder, tmp_path / "out")


# --- the vocabulary ---


def test_the_vocabulary_counts_normalised_main_answers_of_train_and_val(
    archive: Any, tmp_path: Path, make_question: Any, make_annotation: Any
) -> None:
    mains = ["Two."] * 9 + ["yes"] * 9 + ["rare"] * 8 + ["black, white"] * 10
    numbers = range(9000, 9000 + len(mains))
    archive.questions = {"train2014": [make_question(number) for number in numbers]}
    archive.annotations = {
        "train2014": [make_annotation(n, "x", main=main) for n, main in zip(numbers, mains, strict=True)],
        "val2014": [make_annotation(42000, "x", main="yes")],
    }
    archive.questions["val2014"] = [make_question(42000)]
    report = build_official(archive.write(), tmp_path / "out")
    assert read_answers(tmp_path / "out/answers.json").answers == ("black white", "yes", "2")
    assert (
        "answers.json: 3 answers that are, normalised, the most common one of at least 9 of the 37 questions of train "
        "and val; they cover 29 of the questions. Heads of published checkpoints need the vocabulary they "
        "were trained with"
    ) in report.remarks


def test_a_small_sample_has_no_vocabulary(archive: Any, tmp_path: Path) -> None:
    report = build_official(archive.write(), tmp_path / "out")
    assert "no answers.json was written: no answer is the most common one of at least 9" in report.remarks[0]
    assert not (tmp_path / "out/answers.json").exists()


def test_building_another_part_later_leaves_the_vocabulary_alone(archive: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/answers.json").write_text('["yes"]')
    del archive.questions["train2014"], archive.annotations["train2014"]
    build_official(archive.write(), tmp_path / "out")
    assert read_answers(tmp_path / "out/answers.json").answers == ("yes",)


@pytest.mark.parametrize(
    ("name", "content"),
    [("trainval_label2ans.json", ["", "no", "yes"]), ("trainval_ans2label.json", {"yes": 2, "": 0, "no": 1})],
)
def test_a_published_vocabulary_beside_the_files_is_taken(
    name: str, content: Any, archive: Any, tmp_path: Path
) -> None:
    path = archive.write() / name
    path.write_text(json.dumps(content))
    report = build_official(archive.folder, tmp_path / "out")
    assert read_answers(tmp_path / "out/answers.json").answers == ("", "no", "yes")
    assert f"answers.json: the 3 answers of {path}, in their order" in report.remarks


# --- sizes ---


def test_a_nearly_complete_split_whose_size_differs_gets_a_remark(
    archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"train": 4, "val": 3, "test": 100}
    monkeypatch.setattr("vlrun_vqa.build.SPLIT_SIZES", sizes)
    remarks = build_official(archive.write(), tmp_path / "out").remarks
    assert "split 'train' has 3 questions; published are 4" in remarks
    assert "split 'test' has 1 questions; published are 100" in remarks
    assert not [remark for remark in remarks if "'val' has" in remark]


def test_a_sample_gets_no_remark_about_its_size(archive: Any, tmp_path: Path) -> None:
    assert not [
        remark for remark in build_official(archive.write(), tmp_path / "o").remarks if "published are" in remark
    ]


@pytest.mark.samples
@pytest.mark.parametrize(("name", "count", "size"), [("small", 1500, 14), ("with_features", 3, None)])
def test_real_files_are_read(
    name: str, count: int, size: int | None, samples: Path, records: Records, tmp_path: Path
) -> None:
    source = samples / f"vqav2/v2_OpenEnded_mscoco_train2014_questions.{name}.json"
    assert build_official(source, tmp_path / "out").counts == {"train": count}
    found = records(tmp_path / "out/train.jsonl")
    assert all(len(record["answers"]) == 10 for record in found)
    assert {record["answer_type"] for record in found} <= {"yes/no", "number", "other"}
    assert validate_annotations(tmp_path / "out/train.jsonl", VqaQuestion) == []
    vocabulary = tmp_path / "out/answers.json"
    assert (len(read_answers(vocabulary)) if vocabulary.exists() else None) == size
