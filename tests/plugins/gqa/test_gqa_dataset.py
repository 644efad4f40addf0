"""The records of a split as examples, and what an experiment is told about files that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlrun.data.annotations import write_annotations
from vlrun.testing import check_dataset
from vlrun_gqa.config import GqaDatasetConfig
from vlrun_gqa.dataset import GqaAnswer, GqaQuestions
from vlrun_gqa.records import GqaQuestion

RECORD = {
    "id": "07333408",
    "text": "Is the kite red?",
    "image": "2370799",
    "answer": "no",
    "is_balanced": True,
    "structural": "verify",
    "semantic": "attr",
    "detailed": "verifyAttrC",
    "group": "color",
    "steps": 2,
    "entailed": ["7333408"],
}


@pytest.fixture
def config(tmp_path: Path) -> GqaDatasetConfig:
    paths = {"annotations": tmp_path / "annotations", "features": tmp_path / "store"}
    return GqaDatasetConfig(name="gqa", train=["train"], evaluate=["testdev", "submission"], **paths)


def test_a_question_is_an_example_with_its_answer(config: Any) -> None:
    write_annotations(config.split_file("testdev"), [RECORD], GqaQuestion)
    example = GqaQuestions(config, "testdev")[0]
    assert (example.id, example.text, example.image_ids) == ("07333408", "Is the kite red?", ("2370799",))
    assert example.target == GqaAnswer(
        answers=("no",),
        is_balanced=True,
        structural="verify",
        semantic="attr",
        detailed="verifyAttrC",
        group="color",
        steps=2,
        entailed=("7333408",),
    )


def test_a_hidden_answer_leaves_no_target(config: Any) -> None:
    hidden = {key: RECORD[key] for key in ("id", "text", "image")}
    write_annotations(config.split_file("submission"), [hidden], GqaQuestion)
    assert GqaQuestions(config, "submission")[0].target is None


def test_ids_that_differ_in_leading_zeros_stay_two_questions(config: Any) -> None:
    write_annotations(
        config.split_file("testdev"), [RECORD, {**RECORD, "id": "7333408", "entailed": None}], GqaQuestion
    )
    assert [example.id for example in GqaQuestions(config, "testdev")] == ["07333408", "7333408"]


def test_the_protocol_identifies_the_split_file(config: Any) -> None:
    write_annotations(config.split_file("testdev"), [RECORD], GqaQuestion)
    first = GqaQuestions(config, "testdev").protocol
    write_annotations(config.split_file("testdev"), [{**RECORD, "answer": "yes"}], GqaQuestion)
    second = GqaQuestions(config, "testdev").protocol
    assert (first["dataset"], first["annotations"]) == ("gqa", "testdev.jsonl")
    assert len(first["annotations_sha256"]) == 12
    assert first["annotations_sha256"] != second["annotations_sha256"]


def test_the_dataset_keeps_its_promises(config: Any) -> None:
    write_annotations(config.split_file("testdev"), [RECORD], GqaQuestion)
    check_dataset(GqaQuestions(config, "testdev"), [RECORD["image"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 7333408}, "id\n.*valid string"),
        ({"id": ""}, "at least 1 character"),
        ({"image": "images/2370799.jpg"}, "should be written '2370799'"),
        ({"entailed": ["07333408"]}, "holds the question itself"),
        ({"entailed": [7333409]}, "entailed.0"),
        ({"steps": -1}, "greater than or equal to 0"),
        ({"question": "?"}, "question"),
    ],
    ids=["number", "no id", "path", "entails itself", "number entailed", "steps", "unknown field"],
)
def test_a_record_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GqaQuestion.model_validate({**RECORD, **changes})


def test_an_unknown_split_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no split 'val' \(known: .*\)\. Did you mean 'valid'"):
        GqaDatasetConfig(name="gqa", annotations=tmp_path, features=tmp_path, evaluate=["val"])


def test_missing_files_come_with_the_commands_that_make_them(config: Any, tmp_path: Path) -> None:
    files = {file.path.name: file.remedy for file in config.required_files()}
    assert list(files) == ["train.jsonl", "testdev.jsonl", "submission.jsonl", "store"]
    assert "questions1.2.zip" in files["testdev.jsonl"]
    assert f"runner data build gqa --from official FOLDER {tmp_path}/annotations\n" in files["testdev.jsonl"]
    assert f"runner data build gqa --from lxmert FOLDER {tmp_path}/annotations" in files["testdev.jsonl"]
    assert (
        f"runner features build --from lxmert-tsv vg_gqa_obj36.tsv {tmp_path}/store --extractor bua-caffe --boxes 36\n"
        in files["store"]
    )


def test_the_plugin_module_imports_neither_torch_nor_numpy() -> None:
    check = (
        "import sys, vlrun_gqa.plugin as p; p.vlrun_datasets(), p.vlrun_tasks(), p.vlrun_submissions(); "
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_sample_line_of_the_readme_is_a_record() -> None:
    readme = (Path(__file__).parents[3] / "plugins/gqa/README.md").read_text(encoding="utf-8")
    line = readme.split("```json\n")[1].split("\n```")[0]
    assert GqaQuestion.model_validate_json(line).id == "07333408"
