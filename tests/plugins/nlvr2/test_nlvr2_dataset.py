"""The records of a split as examples, and what an experiment is told about files that are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlrun.data.annotations import write_annotations
from vlrun.testing import check_dataset
from vlrun_nlvr2.dataset import Statement, Statements
from vlrun_nlvr2.records import ImagePairStatement

RECORD = {
    "id": "dev-850-0-1",
    "text": "Two owls sit on one branch.",
    "images": ["dev-850-0-img0", "dev-850-0-img1"],
    "label": False,
    "group": "dev-850--1",
    "subsets": ["balanced"],
    "categories": ["hard cardinality"],
}


def test_a_statement_is_an_example_with_its_left_and_right_image(make_config: Callable[..., Any]) -> None:
    config = make_config()
    write_annotations(config.split_file("dev"), [RECORD], ImagePairStatement)
    dataset = Statements(config, "dev")
    assert len(dataset) == 1
    example = dataset[0]
    assert (example.id, example.text) == ("dev-850-0-1", "Two owls sit on one branch.")
    assert example.image_ids == ("dev-850-0-img0", "dev-850-0-img1")
    assert example.target == Statement(False, "dev-850--1", ("balanced",), ("hard cardinality",))
    assert list(dataset.image_ids()) == ["dev-850-0-img0", "dev-850-0-img1"]


def test_a_hidden_label_is_no_target(make_config: Callable[..., Any]) -> None:
    config = make_config()
    record = {name: value for name, value in RECORD.items() if name != "label"}
    write_annotations(config.split_file("test2"), [record], ImagePairStatement)
    assert Statements(config, "test2")[0].target is None


def test_unknown_subsets_are_told_from_none(make_config: Callable[..., Any]) -> None:
    config = make_config()
    unknown = {**RECORD, "id": "2", "subsets": None, "categories": None}
    write_annotations(config.split_file("dev"), [{**RECORD, "subsets": []}, unknown], ImagePairStatement)
    neither, unknown_target = (example.target for example in Statements(config, "dev"))
    assert neither is not None
    assert unknown_target is not None
    assert (neither.subsets, unknown_target.subsets, unknown_target.categories) == ((), None, None)


def test_the_protocol_identifies_the_split_file(make_config: Callable[..., Any]) -> None:
    config = make_config()
    write_annotations(config.split_file("dev"), [RECORD], ImagePairStatement)
    first = Statements(config, "dev").protocol
    write_annotations(config.split_file("dev"), [{**RECORD, "label": True}], ImagePairStatement)
    second = Statements(config, "dev").protocol
    assert (first["dataset"], first["annotations"]) == ("nlvr2", "dev.jsonl")
    assert first["annotations_sha256"] != second["annotations_sha256"]


def test_the_dataset_keeps_its_promises(make_config: Callable[..., Any]) -> None:
    config = make_config()
    write_annotations(config.split_file("dev"), [RECORD], ImagePairStatement)
    check_dataset(Statements(config, "dev"), RECORD["images"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "False"}, "valid boolean"),
        ({"label": 1}, "valid boolean"),
        ({"images": ["dev-850-0-img0"]}, "images.1"),
        ({"images": ["a", "b", "c"]}, "at most 2"),
        ({"images": ["dev/dev-850-0-img0.png", "dev-850-0-img1"]}, "should be written 'dev-850-0-img0'"),
        ({"images": ["", "dev-850-0-img1"]}, "at least 1 character"),
        ({"group": ""}, "at least 1 character"),
        ({"id": ""}, "at least 1 character"),
        ({"subsets": ["easy"]}, "'balanced' or 'unbalanced'"),
        ({"sentence": "Two owls."}, "sentence"),
    ],
    ids=["word", "number", "one image", "three", "path", "no image", "no group", "no id", "subset", "unknown field"],
)
def test_a_record_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImagePairStatement.model_validate_json(json.dumps({**RECORD, **changes}))


def test_a_split_of_lxmerts_naming_is_refused_with_the_known_ones(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ValidationError, match=r"there is no split 'valid' \(known: train, dev, test1, test2\)"):
        make_config(evaluate=["valid"])


def test_missing_files_come_with_the_commands_that_make_them(make_config: Callable[..., Any], tmp_path: Path) -> None:
    files = {file.path.name: file.remedy for file in make_config(evaluate=["dev", "test1"]).required_files()}
    assert list(files) == ["train.jsonl", "dev.jsonl", "test1.jsonl", "store"]
    assert "git clone https://github.com/lil-lab/nlvr\n" in files["dev.jsonl"]
    assert f"runner data build nlvr2 --from official nlvr/nlvr2/data {tmp_path}/annotations\n" in files["dev.jsonl"]
    assert f"runner data build nlvr2 --from lxmert FOLDER {tmp_path}/annotations" in files["dev.jsonl"]
    assert "runner features build --from lxmert-tsv train_obj36.tsv valid_obj36.tsv test_obj36.tsv" in files["store"]
    assert "--extractor bua-caffe --boxes 36\n" in files["store"]


def test_a_backbone_that_looks_needs_the_pictures_and_no_features(make_config: Any) -> None:
    files = make_config(pictures=Path("/pictures/nlvr2")).required_files(pictures=True)

    assert [file.path.name for file in files] == ["train.jsonl", "dev.jsonl", "nlvr2"]
    assert "its authors have a form (https://github.com/lil-lab/nlvr" in files[-1].remedy
    assert "into /pictures/nlvr2 or folders in it, named by their image ids" in files[-1].remedy


def test_the_plugin_module_imports_neither_torch_nor_numpy() -> None:
    check = (
        "import sys, vlrun_nlvr2.plugin as p; p.vlrun_datasets(); p.vlrun_submissions(); "
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_sample_line_of_the_readme_is_a_record() -> None:
    readme = (Path(__file__).parents[3] / "plugins/nlvr2/README.md").read_text(encoding="utf-8")
    line = readme.split("```json\n")[1].split("\n```")[0]
    assert ImagePairStatement.model_validate_json(line).id == "dev-850-0-1"
