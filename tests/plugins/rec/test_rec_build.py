"""The builders: official archives and ROSITA's annotations become annotation files, or say all that is wrong."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun import BuildReport, DataError
from vlrun.cli import main
from vlrun.data.annotations import AnnotationFile, validate_annotations
from vlrun_rec.build import build_official, build_rosita
from vlrun_rec.plugin import vlrun_datasets
from vlrun_rec.records import ReferringExpression
from vlrun_rec.sources import official_source

UNC = official_source("refcoco", "unc")


def records(path: Path) -> list[dict[str, Any]]:
    return list(AnnotationFile(path))


def build(dataset: str, source: str, path: Path, output: Path) -> BuildReport:
    entry = next(entry for entry in vlrun_datasets() if entry.name == dataset)
    builder = next(builder for builder in entry.builders if builder.source == source)
    return builder.build(path, output)


# --- official ---


def test_every_sentence_becomes_a_record_of_its_split(archive: Any, tmp_path: Path) -> None:
    report = build_official(UNC, archive.write(), tmp_path / "out")
    assert report.counts == {"train": 2, "val": 1, "testA": 1, "testB": 1}
    assert records(tmp_path / "out/train.jsonl")[1] == {
        "id": "1",
        "text": "blue shirt",
        "raw": "BLUE SHIRT",
        "image": "COCO_train2014_000000000009",
        "width": 640,
        "height": 480,
        "box": [103.93, 299.99, 134.22, 177.42],
        "ref_id": 0,
        "ann_id": 501,
        "category": "person",
        "split_by": "unc",
    }
    assert all(validate_annotations(path, ReferringExpression) == [] for path in (tmp_path / "out").iterdir())


def test_the_file_name_of_a_reference_is_ignored(archive: Any, tmp_path: Path) -> None:
    build_official(UNC, archive.write(), tmp_path / "out")
    assert records(tmp_path / "out/val.jsonl")[0]["image"] == "COCO_train2014_000000000025"


def test_a_folder_above_the_dataset_will_do(archive: Any, tmp_path: Path) -> None:
    archive.write()
    assert build_official(UNC, tmp_path, tmp_path / "out").counts["train"] == 2


def test_the_choice_of_text_is_said(archive: Any, tmp_path: Path) -> None:
    assert "text is the cleaned expression" in build_official(UNC, archive.write(), tmp_path / "out").remarks[0]


def test_a_sample_of_an_archive_gets_no_remark_about_its_size(archive: Any, tmp_path: Path) -> None:
    assert not [remark for remark in build_official(UNC, archive.write(), tmp_path / "o").remarks if "publ" in remark]


def test_a_nearly_complete_archive_whose_counts_differ_gets_remarks(
    archive: Any, make_reference: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    archive.references = [make_reference(number, 501, 9, "train", "hat") for number in range(45_000)]
    remarks = build_official(UNC, archive.write(), tmp_path / "out").remarks
    assert "split 'train' has 45,000 referents and 45,000 expressions; published are 42,404 and 120,624" in remarks
    assert "split 'val' has 0 referents and 0 expressions; published are 3,811 and 10,834" in remarks


def test_an_empty_expression_is_kept_and_remarked(archive: Any, tmp_path: Path) -> None:
    archive.references[0]["sentences"][0]["sent"] = ""
    report = build_official(UNC, archive.write(), tmp_path / "out")
    assert report.counts["train"] == 2
    assert "split 'train': 1 expressions are empty after cleaning" in report.remarks


def test_a_compound_split_counts_for_each_of_its_letters(archive: Any, tmp_path: Path) -> None:
    archive.references[2]["split"] = "testAB"
    assert build_official(UNC, archive.write(), tmp_path / "out").counts == {
        "train": 2,
        "val": 1,
        "testA": 1,
        "testB": 2,
    }


def test_all_join_errors_are_reported_at_once_and_nothing_is_written(archive: Any, tmp_path: Path) -> None:
    archive.references[0]["ann_id"] = 77
    archive.references[1]["image_id"] = 78
    archive.references[2]["ann_id"] = 501
    archive.references[3]["split"] = "holdout"
    with pytest.raises(DataError) as caught:
        build_official(UNC, archive.write(), tmp_path / "out")
    place = f"{tmp_path}/refcoco/refs(unc).p: ref "
    assert [problem.removeprefix(place) for problem in caught.value.problems] == [
        "0: annotation 77 is not in instances.json",
        "1: image 78 is not in instances.json",
        "2: annotation 501 belongs to image 9, not 25",
        "3: unknown split 'holdout'",
    ]
    assert not (tmp_path / "out").exists()


def test_a_sentence_of_two_references_is_an_error(archive: Any, tmp_path: Path) -> None:
    archive.references[1]["sentences"][0]["sent_id"] = 0
    with pytest.raises(DataError, match="ref 1: sentence 0: is already a sentence of ref 0"):
        build_official(UNC, archive.write(), tmp_path / "out")


def test_a_box_outside_the_image_is_an_error(archive: Any, tmp_path: Path) -> None:
    archive.instances["annotations"][1]["bbox"] = [700, 20, 30, 30]
    with pytest.raises(DataError, match=r"ref 1: sentence 10: box .*outside the image of 640 x 426"):
        build_official(UNC, archive.write(), tmp_path / "out")


def test_an_annotation_that_is_there_twice_is_an_error(archive: Any, tmp_path: Path) -> None:
    archive.instances["annotations"].append(archive.annotation(502, 25, [1, 2, 3, 4]))
    with pytest.raises(DataError, match="annotation 502 occurs twice, with different content"):
        build_official(UNC, archive.write(), tmp_path / "out")


@pytest.mark.parametrize("key", ["ref_id", "ann_id", "image_id", "split", "sentences"])
def test_a_missing_key_of_a_reference_is_named(key: str, archive: Any, tmp_path: Path) -> None:
    del archive.references[1][key]
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p: (ref|entry) 1: {key}: field required"):
        build_official(UNC, archive.write(), tmp_path / "out")


def test_a_wrong_instance_is_named(archive: Any, tmp_path: Path) -> None:
    archive.instances["annotations"][2]["bbox"] = [1, 2, 3]
    with pytest.raises(DataError, match=r"instances.json: annotations.2.bbox.3: field required"):
        build_official(UNC, archive.write(), tmp_path / "out")


def test_damaged_json_is_a_data_error(archive: Any, tmp_path: Path) -> None:
    (archive.write() / "instances.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances\.json:1: not readable JSON"):
        build_official(UNC, archive.folder, tmp_path / "out")


def test_missing_files_say_what_was_found_and_where_to_get_them(archive: Any, tmp_path: Path) -> None:
    (archive.write() / "refs(unc).p").rename(archive.folder / "refs(google).p")
    with pytest.raises(DataError) as caught:
        build_official(UNC, archive.folder, tmp_path / "out")
    message = str(caught.value)
    assert "expected instances.json and refs(unc).p" in message
    assert "found: instances.json, refs(google).p" in message
    assert "refcoco.zip" in message


def test_an_archive_that_is_still_packed_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "refcoco.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack the archive first"):
        build_official(UNC, tmp_path / "refcoco.zip", tmp_path / "out")


class _RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_runs_code_is_refused(archive: Any, tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    folder = archive.write()
    (folder / "refs(unc).p").write_bytes(pickle.dumps([*archive.references, _RunsCode(marker)], protocol=2))
    with pytest.raises(DataError, match=r"refused to load 'posix\.mkdir'"):
        build_official(UNC, folder, tmp_path / "out")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("source", "refs_file", "split_by"),
    [("official", "refs(umd).p", "umd"), ("official-google", "refs(google).p", "google")],
)
def test_refcocog_has_two_official_sources(
    source: str, refs_file: str, split_by: str, archive: Any, tmp_path: Path
) -> None:
    build("refcocog", source, archive.write(refs_file), tmp_path / "out")
    assert records(tmp_path / "out/train.jsonl")[0]["split_by"] == split_by


@pytest.mark.samples
def test_the_first_record_of_the_real_file_is_read(archive: Any, samples: Path, tmp_path: Path) -> None:
    archive.references = json.loads((samples / "refcoco/refs_unc_first_record.json").read_text())
    archive.instances["images"] = [
        {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "height": 427, "width": 640}
    ]
    archive.instances["annotations"] = [archive.annotation(1719310, 581857, [103.93, 199.99, 134.22, 177.42])]
    build_official(UNC, archive.write(), tmp_path / "out")
    found = records(tmp_path / "out/train.jsonl")
    assert [(record["id"], record["text"], record["raw"]) for record in found] == [
        ("0", "the lady with the blue shirt", "THE LADY WITH THE BLUE SHIRT"),
        ("1", "lady with back to us", "lady w back to us"),
        ("2", "blue shirt", "blue shirt"),
    ]


# --- ROSITA ---


@pytest.mark.golden
@pytest.mark.parametrize(
    "inner", ["", "rec-refcoco", "rec-refcoco/rec_refcoco_annotations.json"], ids=["all sets", "the set", "the file"]
)
def test_annotations_of_rosita_are_translated(inner: str, golden: Path, tmp_path: Path) -> None:
    folder = golden / "rosita/mini/annotations"
    source = json.loads((folder / "rec-refcoco/rec_refcoco_annotations.json").read_text())
    report = build("refcoco", "rosita", folder / inner, tmp_path / "out")
    assert report.counts == {split: len(rows) for split, rows in source.items()}
    for split, rows in source.items():
        assert records(tmp_path / f"out/{split}.jsonl") == [
            {
                "id": row["text_id"],
                "text": row["text"],
                "image": row["img_file"].removesuffix(".jpg"),
                "width": row["image_w"],
                "height": row["image_h"],
                "box": row["gt_boxes"],
                "split_by": "unc",
            }
            for row in rows
        ]


def rosita_row(**changes: Any) -> dict[str, Any]:
    row = {"text": "hat", "img_src": "coco", "img_file": "COCO_train2014_000000000009.jpg", "image_h": 480}
    return {**row, "image_w": 640, "gt_boxes": [1, 2, 30, 40], **changes}


def test_expressions_without_usable_ids_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "rec_refcocog_annotations.json"
    path.write_text(json.dumps({"train": [rosita_row(text_id=1), rosita_row(text_id="1")], "val": [rosita_row()]}))
    report = build_rosita("refcocog", "umd", path, tmp_path / "out")
    assert [record["id"] for record in records(tmp_path / "out/train.jsonl")] == ["train_0", "train_1"]
    assert [record["id"] for record in records(tmp_path / "out/val.jsonl")] == ["val_0"]
    assert report.remarks[0].startswith("split 'train' has no unique text_id")


@pytest.mark.parametrize("split", ["../../../escaped", "/{folder}/escaped", "escaped\nx", f"escaped{'x' * 300}"])
def test_a_split_of_rositas_file_writes_nowhere_else(
    tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [rosita_row()], split.format(folder=tmp_path): [rosita_row(text_id=2)]}))
    command = ["data", "build", "refcoco", "--from", "rosita", str(path), str(tmp_path / "deep" / "er" / "out")]
    assert main(command) == 5
    assert "a name in the source cannot be the name of a file" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*escaped*"))


def test_problems_use_the_names_of_rositas_file(tmp_path: Path) -> None:
    path = tmp_path / "rec_refcoco_annotations.json"
    rows = [rosita_row(), rosita_row(image_h=0), rosita_row(gt_boxes=[1, 2, -3, 4]), "row"]
    del rows[0]["img_file"]  # type: ignore[attr-defined]
    path.write_text(json.dumps({"train": rows, "val": []}))
    with pytest.raises(DataError) as caught:
        build_rosita("refcoco", "unc", path, tmp_path / "out")
    assert caught.value.problems.pop() == f"{path}: split 'val' holds no expressions"
    assert [problem.removeprefix(f"{path}: split 'train', record ") for problem in caught.value.problems] == [
        "0: img_file: field required",
        "1: image_h: input should be greater than 0 (got 0)",
        "2: gt_boxes.2: input should be greater than or equal to 0 (got -3)",
        "3: expected an object, found str",
    ]


def test_the_file_may_lack_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "rec-refcoco").mkdir()
    (tmp_path / "rec-refcoco/rec_refcoco_annotations").write_text(json.dumps({"val": [rosita_row()]}))
    assert build_rosita("refcoco", "unc", tmp_path, tmp_path / "out").counts == {"val": 1}


def test_a_folder_without_the_file_says_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the file rec_refcocoplus_annotations\.json"):
        build_rosita("refcoco+", "unc", tmp_path, tmp_path / "out")


def test_a_file_that_is_no_object_of_lists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="one list of expressions per split"):
        build_rosita("refcoco", "unc", tmp_path / "a.json", tmp_path / "out")
