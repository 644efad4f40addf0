"""The records of a split as examples, and what an experiment is told about files that are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlrun.data.annotations import write_annotations
from vlrun.testing import check_dataset
from vlrun_retrieval.dataset import Caption, Captions
from vlrun_retrieval.plugin import vlrun_datasets
from vlrun_retrieval.records import ImageCaption

RECORD = {"id": "1007129816#0", "text": "A man with a hat.", "image": "1007129816", "position": 0}
README = Path(__file__).parents[3] / "plugins/retrieval/README.md"


def test_a_caption_is_an_example_with_its_image(make_config: Any) -> None:
    config = make_config()
    second = {**RECORD, "id": "1007129816#1", "position": 1}
    write_annotations(config.split_file("test"), [RECORD, second], ImageCaption)
    dataset = Captions(config, "test")
    assert len(dataset) == 2
    assert (dataset[0].id, dataset[0].text) == ("1007129816#0", "A man with a hat.")
    assert dataset[0].image_ids == ("1007129816",)
    assert [example.target for example in dataset] == [Caption(0), Caption(1)]
    assert list(dataset.image_ids()) == ["1007129816", "1007129816"]
    assert (dataset.protocol["dataset"], dataset.protocol["annotations"]) == ("flickr30k", "test.jsonl")


def test_the_dataset_keeps_its_promises(make_config: Any) -> None:
    config = make_config()
    write_annotations(config.split_file("test"), [RECORD], ImageCaption)
    check_dataset(Captions(config, "test"), [RECORD["image"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "at least 1 character"),
        ({"id": 7}, "valid string"),
        ({"image": "flickr30k/1007129816.jpg"}, "should be written '1007129816'"),
        ({"image": ""}, "at least 1 character"),
        ({"position": -1}, "greater than or equal to 0"),
        ({"sentid": 7}, "sentid"),
    ],
    ids=["no id", "number", "path", "no image", "position", "unknown field"],
)
def test_a_record_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageCaption.model_validate_json(json.dumps({**RECORD, **changes}))


@pytest.mark.parametrize(
    ("dataset", "split", "known"),
    [
        ("coco-retrieval", "restval", "train, val, test, test1k"),
        ("coco-retrieval", "testall", "train, val, test, test1k"),
        ("flickr30k", "valid", "train, val, test"),
    ],
)
def test_names_of_splits_elsewhere_are_refused_with_the_known_ones(
    dataset: str, split: str, known: str, make_config: Any
) -> None:
    with pytest.raises(ValidationError, match=rf"there is no split '{split}' \(known: {known}\)"):
        make_config(dataset, evaluate=[split])


@pytest.mark.parametrize(
    ("dataset", "commands"),
    [
        ("coco-retrieval", ["karpathy-five dataset_coco.json", "itr_coco_annotations.json", "(train, test1k, test)"]),
        ("flickr30k", ["karpathy dataset_flickr30k.json", "itr_flickr_annotations.json", "(train, test)"]),
    ],
)
def test_missing_files_come_with_the_commands_that_make_them(
    dataset: str, commands: list[str], make_config: Any
) -> None:
    files = {file.path.name: file.remedy for file in make_config(dataset).required_files()}
    assert list(files) == ["train.jsonl", "test.jsonl", "store"]
    assert all(command in files["test.jsonl"] for command in commands)
    assert f"runner data build {dataset} --from karpathy" in files["train.jsonl"]
    assert "runner features build --from rosita-tsv FOLDER" in files["store"]


def test_every_dataset_offers_its_sources() -> None:
    found = {entry.name: [builder.source for builder in entry.builders] for entry in vlrun_datasets()}
    assert found == {
        "coco-retrieval": ["karpathy-five", "karpathy", "rosita", "volta"],
        "flickr30k": ["karpathy", "rosita", "lxmert-s", "volta"],
    }
    assert all(entry.target == "caption" and entry.load_record() is ImageCaption for entry in vlrun_datasets())


def test_the_plugin_module_imports_neither_torch_nor_numpy() -> None:
    check = "import sys, vlrun_retrieval.plugin as p; p.vlrun_datasets(); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_sample_line_of_the_readme_is_a_record() -> None:
    line = README.read_text(encoding="utf-8").split("```json\n")[1].split("\n```")[0]
    assert ImageCaption.model_validate_json(line).id == "1007129816#0"
