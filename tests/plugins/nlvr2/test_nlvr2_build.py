"""The builders: official files and LXMERT's become annotation files, or say all that is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vlrun import BuildReport, DataError
from vlrun.data.annotations import AnnotationFile, validate_annotations
from vlrun_nlvr2.build import build_lxmert, build_official
from vlrun_nlvr2.plugin import vlrun_datasets
from vlrun_nlvr2.records import ImagePairStatement


def records(path: Path) -> list[dict[str, Any]]:
    return list(AnnotationFile(path))


def build(source: str, path: Path, output: Path) -> BuildReport:
    (entry,) = vlrun_datasets()
    builder = next(builder for builder in entry.builders if builder.source == source)
    return builder.build(path, output)


def problems_of(folder: Path, output: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        build_official(folder, output)
    assert not output.exists(), "nothing is written"
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


# --- official ---


def test_a_line_becomes_a_record_with_images_group_subsets_and_phenomena(archive: Any, tmp_path: Path) -> None:
    report = build("official", archive.write(), tmp_path / "out")
    assert report.counts == {"train": 2, "dev": 3}
    first, second, third = records(tmp_path / "out/dev.jsonl")
    assert first == {
        "id": "dev-850-0-0",
        "text": "Only one gerbil.",
        "images": ["dev-850-0-img0", "dev-850-0-img1"],
        "label": True,
        "group": "dev-850--0",
        "subsets": ["balanced"],
        "categories": ["hard cardinality", "cc ambiguity"],
    }
    assert (second["label"], second["group"], second["subsets"]) == (False, "dev-850--1", ["unbalanced"])
    assert third["images"] == ["dev-850-2-img0", "dev-850-2-img1"]
    assert third["group"] == first["group"], "another pair of the same set, the same sentence"
    assert "categories" not in second, "its sentence is not annotated"
    assert all(validate_annotations(path, ImagePairStatement) == [] for path in (tmp_path / "out").iterdir())


def test_what_no_file_says_is_absent_and_not_empty(archive: Any, tmp_path: Path) -> None:
    build_official(archive.write(), tmp_path / "out")
    record = records(tmp_path / "out/train.jsonl")[0]
    assert "subsets" not in record
    assert "categories" not in record


def test_a_statement_in_neither_subset_has_an_empty_list(archive: Any, tmp_path: Path) -> None:
    archive.files["dev.json"].append(archive.row("dev-851-0-0", "True"))
    build_official(archive.write(), tmp_path / "out")
    assert records(tmp_path / "out/dev.jsonl")[-1]["subsets"] == []


def test_the_folder_above_will_do_and_phenomena_lie_where_the_authors_have_them(archive: Any, tmp_path: Path) -> None:
    archive.write("../util/annotated_dev_examples.txt")
    build_official(tmp_path, tmp_path / "out")
    assert records(tmp_path / "out/dev.jsonl")[0]["categories"] == ["hard cardinality", "cc ambiguity"]


def test_phenomena_may_lie_in_util(archive: Any, tmp_path: Path) -> None:
    build_official(archive.write("util/annotated_dev_examples.txt"), tmp_path / "out")
    assert "categories" in records(tmp_path / "out/dev.jsonl")[0]


def test_a_hidden_label_is_absent_and_remarked(archive: Any, tmp_path: Path) -> None:
    archive.files["test2.json"] = [archive.row("test2-1-0-0", None), archive.row("test2-1-1-0", None)]
    report = build_official(archive.write(), tmp_path / "out")
    assert "label" not in records(tmp_path / "out/test2.jsonl")[0]
    assert "split 'test2': 2 of 2 statements have no label: predicted, not scored" in report.remarks


def test_sizes_that_differ_from_the_published_ones_are_remarked(archive: Any, tmp_path: Path) -> None:
    remarks = build_official(archive.write(), tmp_path / "out").remarks
    assert "split 'dev' has 3 statements; published are 6,982" in remarks
    assert "split 'train' has 2 statements; published are 86,373" in remarks


def test_a_split_without_subset_files_is_remarked(archive: Any, tmp_path: Path) -> None:
    archive.files["test1.json"] = [archive.row("test1-1-0-0", "True")]
    remarks = build_official(archive.write(), tmp_path / "out").remarks
    assert [remark for remark in remarks if "balanced" in remark] == [
        "split 'test1': no file says which statements are balanced, so it has no such scores"
    ]


def test_a_random_split_of_train_is_noticed(archive: Any, tmp_path: Path) -> None:
    archive.files["test1.json"] = [archive.row("train-7-2-0", "True"), archive.row("train-8-0-0", "True")]
    remarks = build_official(archive.write(), tmp_path / "out").remarks
    (leak,) = [remark for remark in remarks if "share" in remark]
    assert leak.startswith("splits 'train' and 'test1' share 1 image sets")
    assert "directory" in leak


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": True}, "label: input should be 'True' or 'False' (got True)"),
        ({"label": "true"}, "label: input should be 'True' or 'False' (got 'true')"),
        ({"label": ""}, "label: input should be 'True' or 'False' (got '')"),
        ({"sentence": 3}, "sentence: input should be a valid string (got 3)"),
        ({"identifier": "12-0"}, "identifier: should be split-set-pair-sentence, such as dev-850-0-1"),
        ({"identifier": "dev-850-0"}, "identifier: should be split-set-pair-sentence, such as dev-850-0-1"),
        ({"identifier": "dev-850-0-1.png"}, "identifier: should be split-set-pair-sentence, such as dev-850-0-1"),
    ],
    ids=["bool", "lower case", "empty", "sentence", "first NLVR", "no sentence", "suffix"],
)
def test_a_wrong_field_is_named_with_its_line(row: dict[str, Any], message: str, archive: Any, tmp_path: Path) -> None:
    archive.files["train.json"][1].update(row)
    (problem,) = problems_of(archive.write(), tmp_path / "out")
    assert problem.startswith(f"train.json:2: {message}")


def test_all_problems_are_reported_at_once_and_nothing_is_written(archive: Any, tmp_path: Path) -> None:
    archive.files["train.json"] += ['{"identifier": "trai', archive.files["train.json"][0]]
    del archive.files["dev.json"][1]["sentence"]
    archive.files["balanced/balanced_dev.json"].append(archive.row("dev-9-0-0", "True"))
    archive.phenomena += "* negation\r\nOne.\r\nTwo.\r\n"
    folder = archive.write()
    assert problems_of(folder, tmp_path / "out") == [
        "annotated_dev_examples.txt:8: expected a new sentence, its lines with '* phenomenon', and a gap",
        "annotated_dev_examples.txt:10: expected a new sentence, its lines with '* phenomenon', and a gap",
        "train.json:3: not JSON: Unterminated string starting at at column 16",
        "train.json:4: identifier 'train-7-0-0' is already that of line 1",
        "dev.json:2: sentence: field required",
        f"{folder}/balanced/balanced_dev.json: 'dev-9-0-0' is not in dev.json".removeprefix(f"{folder}/"),
        "unbalanced/unbalanced_dev.json:1: sentence: field required",
    ]


def test_phenomena_that_are_no_text_are_an_error(archive: Any, tmp_path: Path) -> None:
    folder = archive.write()
    (folder / "annotated_dev_examples.txt").write_bytes(b"One owl.\r\n* caf\xe9\r\n")
    (problem,) = problems_of(folder, tmp_path / "out")
    assert problem == "annotated_dev_examples.txt: not a text file in UTF-8 (byte 15)"


def test_one_subset_without_the_other_is_an_error(archive: Any, tmp_path: Path) -> None:
    del archive.files["unbalanced/unbalanced_dev.json"]
    (problem,) = problems_of(archive.write(), tmp_path / "out")
    assert problem == "unbalanced/unbalanced_dev.json: is missing, although the file of the other subset is there"


def test_a_folder_without_the_files_says_what_it_holds_and_where_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError) as caught:
        build_official(tmp_path, tmp_path / "out")
    message = str(caught.value)
    assert "train.json, dev.json, test1.json, test2.json (found: readme.txt)" in message
    assert "github.com/lil-lab/nlvr" in message


@pytest.mark.samples
def test_real_files_have_the_published_counts(samples: Path, tmp_path: Path) -> None:
    report = build_official(samples / "nlvr2", tmp_path)
    assert report == BuildReport({"dev": 6_982, "test1": 6_967}, ())
    sizes = {}
    for split in ("dev", "test1"):
        found = records(tmp_path / f"{split}.jsonl")
        groups = Counter(record["group"] for record in found)
        sizes[split] = (
            sum(record["label"] for record in found),
            len(groups),
            sorted(Counter(groups.values()).items(), reverse=True),
            Counter(name for record in found for name in record["subsets"]),
        )
    assert sizes == {
        "dev": (3_551, 2_018, [(4, 1196), (3, 590), (2, 196), (1, 36)], {"balanced": 2_300, "unbalanced": 3_562}),
        "test1": (3_558, 1_995, [(4, 1223), (3, 562), (2, 179), (1, 31)], {"balanced": 2_316, "unbalanced": 3_536}),
    }
    dev = records(tmp_path / "dev.jsonl")
    assert sum("categories" in record for record in dev) == 2_868
    assert len({record["text"] for record in dev}) == 2_004, "fewer texts than groups"


# --- LXMERT ---


def lxmert_row(identifier: str, label: int | None, number: int = 0, **changes: Any) -> dict[str, Any]:
    stem = identifier.rsplit("-", 1)[0]
    known = {} if label is None else {"label": label}
    row = {"identifier": identifier, "img0": f"{stem}-img0", "img1": f"{stem}-img1", "sent": "Both are cats."}
    return {**row, "uid": f"nlvr2_valid_{number}", **known, **changes}


def test_lxmerts_valid_is_dev_and_its_test_is_test1(tmp_path: Path) -> None:
    (tmp_path / "valid.json").write_text(json.dumps([lxmert_row("dev-7-2-0", 0), lxmert_row("dev-7-2-1", 1, 1)]))
    (tmp_path / "test.json").write_text(json.dumps([lxmert_row("test1-1-0-0", None)]))
    report = build("lxmert", tmp_path, tmp_path / "out")
    assert report.counts == {"dev": 2, "test1": 1}
    assert records(tmp_path / "out/dev.jsonl")[0] == {
        "id": "dev-7-2-0",
        "text": "Both are cats.",
        "images": ["dev-7-2-img0", "dev-7-2-img1"],
        "label": False,
        "group": "dev-7--0",
    }
    assert records(tmp_path / "out/dev.jsonl")[1]["label"] is True
    assert "label" not in records(tmp_path / "out/test1.jsonl")[0]


def test_both_sources_give_the_same_record_but_for_what_lxmert_leaves_out(archive: Any, tmp_path: Path) -> None:
    build_official(archive.write(None), tmp_path / "official")
    rows = [lxmert_row(row["identifier"], int(row["label"] == "True")) for row in archive.files["train.json"]]
    (tmp_path / "train.json").write_text(
        json.dumps([{**row, "sent": archive.files["train.json"][0]["sentence"]} for row in rows])
    )
    build_lxmert(tmp_path, tmp_path / "lxmert")
    assert records(tmp_path / "lxmert/train.jsonl") == records(tmp_path / "official/train.jsonl")


def test_problems_use_the_names_of_lxmerts_files(tmp_path: Path) -> None:
    rows = [
        lxmert_row("train-1-0-0", 1),
        lxmert_row("train-1-0-0", 1),
        lxmert_row("train-1-1-0", 2),
        {**lxmert_row("train-1-2-0", 1), "label": "True"},
        lxmert_row("train-1-3-0", 1, img1=None),
        lxmert_row("train-1-3-1", 1, img0=""),
        lxmert_row("train-1-3-2", 1, img1="train/owl.jpg.jpg"),
        "row",
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as caught:
        build_lxmert(tmp_path, tmp_path / "out")
    assert [problem.removeprefix(f"{tmp_path}/train.json: record ") for problem in caught.value.problems[:6]] == [
        "1: identifier 'train-1-0-0' is already that of record 0",
        "2: label: input should be 0 or 1 (got 2)",
        "3: label: input should be 0 or 1 (got 'True')",
        "4: img1: input should be a valid string (got None)",
        "5: img0: should be the name of an image (got '')",
        "6: img1: should be the name of an image (got 'train/owl.jpg.jpg')",
    ]
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"identifier": "train-1-0-0"}\n{"identifier": "train-1-1-0"}\n',
            "are for `--from official`",
        ),
        ('{"train": []}', "expected a list of statements, found dict"),
    ],
    ids=["official file", "object"],
)
def test_a_file_of_another_kind_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match=message):
        build_lxmert(tmp_path, tmp_path / "out")
