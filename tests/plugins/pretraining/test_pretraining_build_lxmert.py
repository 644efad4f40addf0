"""LXMERT's own pre-training files: what becomes of them, and what is said of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlrun.cli import main
from vlrun_pretraining.sources import LXMERT_SPLITS

ANSWERS = [{"ans": "yes", "dsets": ["vqa"]}, {"ans": "2", "dsets": ["vqa", "gqa"]}, {"ans": "gray", "dsets": ["gqa"]}]


def datum(image: str, **changes: Any) -> dict[str, Any]:
    return {
        "img_id": image,
        "sentf": {"mscoco": ["A cat.", "Two cats"], "vqa": ["How many?", "Is it?"]},
        "labelf": {"vqa": [{"Two": 0.9, "three": 0.3}, {"yes.": 1}]},
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in LXMERT_SPLITS:
        (tmp_path / f"{split}.json").write_text(
            json.dumps([datum(f"COCO_{split}_1"), datum(f"COCO_{split}_2", labelf={})])
        )
    (tmp_path / "all_ans.json").write_text(json.dumps(ANSWERS))
    return tmp_path


def build(folder: Path) -> int:
    return main(["data", "build", "lxmert-pretraining", "--from", "lxmert", str(folder), str(folder / "out")])


def test_every_sentence_is_an_item_and_answers_are_spelled_as_the_table_has_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(folder) == 0
    rows = [json.loads(line) for line in (folder / "out" / "vgnococo.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["A cat.", "Two cats", "How many?", "Is it?"] * 2
    assert rows[2] == {
        "id": "COCO_vgnococo_1_vqa_0",
        "text": "How many?",
        "image": "COCO_vgnococo_1",
        "source": "vqa",
        "answers": {"2": 0.9},
    }
    assert rows[3]["answers"] == {"yes": 1.0}
    assert [row.get("answers") for row in (rows[0], rows[6])] == [None, None]
    assert json.loads((folder / "out" / "answers.json").read_text()) == ["yes", "2", "gray"]
    assert (
        "4 answers are none of the 3 that can be given, such as 'three'; they are left out" in capsys.readouterr().out
    )
    assert main(["data", "validate", "lxmert-pretraining", str(folder / "out")]) == 0


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [
        {"sentf": {}},
        datum("a", labelf={"vqa": [{"yes": 1}]}),
        datum("b", labelf={"gqa": []}),
        datum("c", sentf={"vqa": "How many?"}, labelf={}),
        datum("d", labelf={"vqa": ["yes", "no"]}),
    ]
    (folder / "vgnococo.json").write_text(json.dumps(wrong))
    assert build(folder) == 5
    said = capsys.readouterr().err
    for expected in (
        "vgnococo.json: entry 0: expected an object with img_id, sentf and labelf",
        "entry 1 ('a'): labelf.vqa: expected 2 labels, as many as sentences, found 1",
        "entry 2 ('b'): labelf has gqa, and sentf has not",
        "entry 3 ('c'): sentf.vqa: expected a list of texts",
        "entry 4 ('d'): labelf.vqa: expected objects from answers to scores, found yes",
    ):
        assert expected in said
    assert not (folder / "out").exists()


def test_files_that_are_not_there_are_named_with_where_to_get_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "all_ans.json").unlink()
    (folder / "vgnococo.json").unlink()
    assert build(folder) == 5
    assert "all_ans.json, vgnococo.json is not there. Download" in capsys.readouterr().err


def test_a_file_that_ends_early_is_an_error_with_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "mscoco_train.json"
    path.write_text(path.read_text()[:100])
    assert build(folder) == 5
    assert "mscoco_train.json" in capsys.readouterr().err
