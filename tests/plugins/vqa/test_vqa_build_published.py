"""The builders for the files that LXMERT and ROSITA publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError
from vlrun.blocks.answers import read_answers
from vlrun.data.annotations import validate_annotations
from vlrun_vqa.build_published import build_lxmert, build_rosita
from vlrun_vqa.records import VqaQuestion

Records = Callable[[Path], list[dict[str, Any]]]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# --- LXMERT ---


def lxmert_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "question_id": number,
        "img_id": "COCO_val2014_000000000042",
        "sent": "Which breed is it?",
        "answer_type": "other",
        "question_type": "what",
        "label": {"pug": 1, "dog": 0.3},
    }
    return {**row, **changes}


def lxmert_test_row(number: int) -> dict[str, Any]:
    return {"question_id": number, "img_id": "COCO_test2015_000000000001", "sent": "What is it?"}


def test_soft_scores_are_kept(records: Records, tmp_path: Path) -> None:
    write(tmp_path / "minival.json", [lxmert_row(42001), lxmert_row(42002, label={})])
    write(tmp_path / "test.json", [lxmert_test_row(1000)])
    write(tmp_path / "trainval_label2ans.json", ["", "dog", "pug"])
    report = build_lxmert(tmp_path, tmp_path / "out")
    assert report.counts == {"minival": 2, "test": 1}
    found = records(tmp_path / "out/minival.jsonl")
    assert found[0] == {
        "id": "42001",
        "text": "Which breed is it?",
        "image": "COCO_val2014_000000000042",
        "scores": {"pug": 1.0, "dog": 0.3},
        "answer_type": "other",
        "question_type": "what",
    }
    assert found[1]["scores"] == {}
    assert "scores" not in records(tmp_path / "out/test.jsonl")[0]
    assert read_answers(tmp_path / "out/answers.json").answers == ("", "dog", "pug")
    assert report.remarks[0].startswith("these files hold soft scores and not the answers behind them")
    assert "split 'minival': 1 questions have no answer in the authors' vocabulary" in report.remarks[1]
    assert validate_annotations(tmp_path / "out/minival.jsonl", VqaQuestion) == []


def test_without_the_authors_list_all_scored_answers_are_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [lxmert_row(1), lxmert_row(2, label={"dog": 1}), lxmert_row(3, label={"ant": 1})])
    report = build_lxmert(tmp_path, tmp_path / "out")
    assert read_answers(tmp_path / "out/answers.json").answers == ("dog", "ant", "pug")
    assert "all 3 answers that have a score" in report.remarks[1]
    assert "the authors' order, which the heads of their checkpoints need, is unknown" in report.remarks[1]


def test_hidden_answers_of_a_training_split_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [lxmert_row(1), lxmert_test_row(2)])
    remarks = build_lxmert(tmp_path, tmp_path / "out").remarks
    assert "split 'train': 1 questions have no answer: they are neither learned from nor scored" in remarks


def test_problems_use_the_names_of_lxmerts_files(tmp_path: Path) -> None:
    rows = [
        lxmert_row(1, label={"dog": 1.5}),
        lxmert_row(2, sent=None),
        lxmert_row(3, img_id=""),
        "row",
        lxmert_row(5),
        lxmert_row(5),
        lxmert_row(-1),
    ]
    write(tmp_path / "train.json", rows)
    with pytest.raises(DataError) as caught:
        build_lxmert(tmp_path, tmp_path / "out")
    found = [problem.removeprefix(f"{tmp_path}/train.json, row ") for problem in caught.value.problems]
    assert found[0] == "0: label.dog: input should be less than or equal to 1 (got 1.5)"
    assert found[1].startswith("1: sent: input should be a valid string")
    assert found[2].startswith("2: img_id: string should have at least 1 character")
    assert found[3] == "3: expected an object, found str"
    assert found[4] == "5: question 5 occurs twice"
    assert found[5].startswith("6: question_id: string should match pattern")


def test_a_folder_without_lxmerts_files_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"LXMERT's train\.json, nominival\.json, minival\.json, test\.json"):
        build_lxmert(tmp_path, tmp_path / "out")


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.json", {"questions": []})
    with pytest.raises(DataError, match=r"train\.json: expected a list of questions; the file starts with"):
        build_lxmert(tmp_path, tmp_path / "out")


# --- ROSITA ---


@pytest.mark.golden
@pytest.mark.parametrize(
    "inner", ["", "vqa-vqav2", "vqa-vqav2/vqa_vqav2_annotations.json"], ids=["all sets", "the set", "the file"]
)
def test_annotations_of_rosita_are_translated(inner: str, golden: Path, records: Records, tmp_path: Path) -> None:
    mini = golden / "rosita/mini"
    source = json.loads((mini / "annotations/vqa-vqav2/vqa_vqav2_annotations.json").read_text())
    report = build_rosita(mini / "annotations" / inner, tmp_path / "out")
    assert report.counts == {split: len(rows) for split, rows in source.items()}
    official = json.loads((mini / "annotations/vqa-vqav2/v2_mscoco_minival2014_annotations.json").read_text())
    types = {
        str(row["question_id"]): {"answer_type": row["answer_type"], "question_type": row["question_type"]}
        for row in official["annotations"]
    }
    assert f"types of answers and questions: of v2_mscoco_minival2014_annotations.json, for {len(types)} questions" in (
        report.remarks
    )
    for split, rows in source.items():
        for record, row in zip(records(tmp_path / f"out/{split}.jsonl"), rows, strict=True):
            plain = {"id": row["text_id"], "text": row["text"], "image": row["img_file"].removesuffix(".jpg")}
            answers = {"answers": row["multi_label"], **types.get(row["text_id"], {})}
            assert record == {**plain, **(answers if row.get("label") else {})}  # without a label it has no loss
    index_of, _ = json.loads((mini / "answer_vocab.json").read_text())
    assert read_answers(tmp_path / "out/answers.json").answers == tuple(sorted(index_of, key=index_of.get))
    assert any(remark.endswith("answer_vocab.json, in their order") for remark in report.remarks)


def rosita_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {"text_id": str(number), "text": "Is it red?", "text_set": "vqa", "img_src": "coco", "label": "yes"}
    return {**row, "img_file": "COCO_val2014_000000000042.jpg", "multi_label": ["yes"] * 10, **changes}


def test_what_val_and_minival_share_is_said_and_nominival_is_made(records: Records, tmp_path: Path) -> None:
    content = {"train": [rosita_row(1)], "val": [rosita_row(2), rosita_row(3)], "minival": [rosita_row(3)]}
    write(tmp_path / "vqa_vqav2_annotations.json", content)
    report = build_rosita(tmp_path, tmp_path / "out")
    assert report.counts == {"train": 1, "val": 2, "minival": 1, "nominival": 1}
    assert "split 'val' holds 1 of the 1 questions of 'minival'" in report.remarks[1]
    assert [record["id"] for record in records(tmp_path / "out/nominival.jsonl")] == ["2"]


def test_types_are_of_the_official_question_about_the_same_image(records: Records, tmp_path: Path) -> None:
    write(tmp_path / "vqa_vqav2_annotations.json", {"val": [rosita_row(1), rosita_row(2), rosita_row(3)]})
    assert "no types of answers" in build_rosita(tmp_path, tmp_path / "without").remarks[0]
    official = [
        {"question_id": 1, "image_id": 42, "answer_type": "yes/no", "question_type": "is it"},
        {"question_id": 2, "image_id": 43, "answer_type": "other"},
        "row",
    ]
    write(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": official})
    report = build_rosita(tmp_path, tmp_path / "out")
    assert [record.get("answer_type") for record in records(tmp_path / "out/val.jsonl")] == ["yes/no", None, None]
    assert report.remarks[0].endswith("of v2_mscoco_val2014_annotations.json, for 1 questions")


def test_a_record_without_label_is_hidden(records: Records, tmp_path: Path) -> None:
    rows = [rosita_row(1), rosita_row(2, label=""), rosita_row(3, label=None)]
    write(tmp_path / "vqa_vqav2_annotations.json", {"train": rows, "test": [{**rows[0], "label": ""}]})
    report = build_rosita(tmp_path, tmp_path / "out")
    assert ["answers" in record for record in records(tmp_path / "out/train.jsonl")] == [True, False, False]
    hidden = [remark for remark in report.remarks if "have no answer" in remark]
    assert hidden == ["split 'train': 2 questions have no answer: they are neither learned from nor scored"]


def test_without_a_published_vocabulary_labels_are_counted(tmp_path: Path) -> None:
    rows = [rosita_row(number, label="Two.") for number in range(9)]
    write(tmp_path / "a/b/c/vqa_vqav2_annotations.json", {"train": rows})
    build_rosita(tmp_path / "a/b/c", tmp_path / "out")
    assert read_answers(tmp_path / "out/answers.json").answers == ("2",)


def test_problems_use_the_names_of_rositas_file(tmp_path: Path) -> None:
    path = tmp_path / "vqa_vqav2_annotations.json"
    rows = [rosita_row(0), rosita_row(1, text_set="vg"), rosita_row(2, text_id="x7"), "row", rosita_row(4)]
    del rows[0]["img_file"], rows[4]["multi_label"]  # type: ignore[attr-defined]
    write(path, {"train": rows})
    with pytest.raises(DataError) as caught:
        build_rosita(path, tmp_path / "out")
    found = [problem.removeprefix(f"{path}: split 'train', record ") for problem in caught.value.problems]
    assert found[0] == "0: img_file: field required"
    assert found[1] == "1: text_set: expected 'vqa', it is 'vg'"
    assert found[2].startswith("2: text_id: string should match pattern")
    assert found[3] == "3: expected an object, found str"
    assert found[4] == "4: multi_label: field required"


def test_the_file_may_lack_its_suffix(tmp_path: Path) -> None:
    write(tmp_path / "vqa-vqav2/vqa_vqav2_annotations", {"val": [rosita_row(1)]})
    assert build_rosita(tmp_path, tmp_path / "out").counts == {"val": 1}


def test_a_folder_without_the_file_says_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the file vqa_vqav2_annotations\.json"):
        build_rosita(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("content", [[], {"train": 3}, {"val": [], "train": {}}, {"train": "text"}])
def test_a_file_that_is_no_object_of_lists_is_refused(content: Any, tmp_path: Path) -> None:
    write(tmp_path / "vqa_vqav2_annotations.json", content)
    with pytest.raises(DataError, match="one list of questions per split"):
        build_rosita(tmp_path, tmp_path / "out")
