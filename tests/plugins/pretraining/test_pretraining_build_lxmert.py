"""LXMERT's own pre-training files: what becomes of them, and what is said of damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import DataError, RegionFeatures
from vlrun.cli import main
from vlrun.features.writer import write_store
from vlrun_pretraining.config import LxmertPretrainingConfig
from vlrun_pretraining.dataset import LxmertTexts
from vlrun_pretraining.items import items_to_evaluate
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
        datum("e"),
        datum("f", labelf={"vqa": [{"yes": -1}, {}]}),
        datum("e"),
    ]
    (folder / "vgnococo.json").write_text(json.dumps(wrong))
    assert build(folder) == 5
    said = capsys.readouterr().err
    for expected in (
        "vgnococo.json: entry 0: expected an object with img_id, sentf and labelf",
        "entry 1 ('a'): labelf.vqa: expected 2 labels, as many as sentences, found 1",
        "entry 2 ('b'): labelf has gqa, and sentf has not",
        "entry 3 ('c'): sentf.vqa: expected a list of texts",
        "entry 4 ('d'): labelf.vqa: expected answers with scores of 0 or more, found yes",
        "entry 6 ('f'): labelf.vqa: expected answers with scores of 0 or more, found {'yes': -1}",
        "entry 7 ('e'): the same image as in entry 5",
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


def test_a_file_without_texts_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "vgnococo.json").write_text("[]")
    assert build(folder) == 5
    assert f"{folder / 'vgnococo.json'}: there is no text in it" in capsys.readouterr().err


def test_a_file_that_ends_early_is_an_error_with_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "mscoco_train.json"
    path.write_text(path.read_text()[:100])
    assert build(folder) == 5
    assert "mscoco_train.json" in capsys.readouterr().err


def test_names_of_detector_classes_are_taken_along(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "objects_vocab.txt").write_text("cat,kitten\nball\n")
    assert build(folder) == 0
    assert (folder / "out" / "classes.txt").read_text() == "cat\nball\n"
    (folder / "objects_vocab.txt").write_text("cat\n\n")
    assert build(folder) == 5
    assert "objects_vocab.txt:2: the line is empty" in capsys.readouterr().err


# --- the sets whose texts are used ---


@pytest.fixture
def config(folder: Path) -> Callable[..., LxmertPretrainingConfig]:
    assert build(folder) == 0
    paths = {"annotations": folder / "out", "features": folder / "features"}
    splits = {"train": ["mscoco_train"], "evaluate": ["mscoco_minival"]}
    return lambda **options: LxmertPretrainingConfig(name="lxmert-pretraining", **{**paths, **splits, **options})


def test_texts_of_chosen_sources_are_the_examples(config: Callable[..., LxmertPretrainingConfig]) -> None:
    whole, captions = (LxmertTexts(config(sources=sources), "vgnococo") for sources in (None, ["mscoco"]))
    assert [example.text for example in captions] == ["A cat.", "Two cats"] * 2
    assert [example.id for example in captions] == [
        example.id for example in whole if "mscoco" in example.id.split("_")[3:]
    ]
    assert list(captions.image_ids()) == [example.image_ids[0] for example in captions]
    assert len(whole) == 2 * len(captions) == 8
    assert (captions.protocol["sources"], "sources" in whole.protocol) == ("mscoco", False)


def test_evaluation_draws_from_texts_of_those_sources_alone(
    config: Callable[..., LxmertPretrainingConfig], folder: Path
) -> None:
    features = np.ones((1, 2), np.float16), np.array([[1, 2, 5, 6]], np.float32)
    ids = [f"COCO_mscoco_minival_{number}" for number in (1, 2)]
    write_store(folder / "features", [RegionFeatures(image_id, *features, 9, 9) for image_id in ids])
    items = items_to_evaluate(config(sources=["vqa"]))["mscoco_minival"]
    assert items.texts_of(ids[1]) == ["How many?", "Is it?"]


def test_sources_without_a_text_are_named_with_those_that_there_are(
    config: Callable[..., LxmertPretrainingConfig],
) -> None:
    with pytest.raises(
        DataError, match=r"vgnococo\.jsonl: there is no text of sources vg, gqa; there are mscoco \(4\), vqa \(4\)"
    ):
        LxmertTexts(config(sources=["vg", "gqa"]), "vgnococo")


def test_features_of_visual_genome_are_asked_for_where_a_split_needs_them(
    config: Callable[..., LxmertPretrainingConfig],
) -> None:
    without, with_it = (
        " ".join(config(train=["mscoco_train", *more]).features_remedy()) for more in ([], ["vgnococo"])
    )
    assert "vg_gqa_obj36.tsv" not in without
    assert "vg_gqa_obj36.tsv" in with_it
