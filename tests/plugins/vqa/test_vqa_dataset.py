"""The records of a split as examples, and what an experiment is told about files that are not there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlrun import DataError
from vlrun.cli import main
from vlrun.data.annotations import write_annotations
from vlrun.testing import check_dataset
from vlrun_vqa.config import VqaV2Config
from vlrun_vqa.dataset import VqaAnswers
from vlrun_vqa.records import VqaQuestion

EXPERIMENT = """
backbone: {{name: rosita}}
tasks: [{{name: vqa, loss: {loss}, dataset: {{name: vqav2, annotations: notes, features: store, evaluate: [minival]}}}}]
train: {{epochs: 1, batch_size: 2, learning_rate: 0.1}}
"""

RECORD = {
    "id": "42001",
    "text": "Which breed is it?",
    "image": "COCO_val2014_000000000042",
    "answers": ["pug", "dog", "pug"],
    "answer_type": "other",
    "question_type": "what",
}


def test_a_question_is_an_example_with_its_answers(open_split: Any, tmp_path: Path) -> None:
    write_annotations(tmp_path / "val.jsonl", [RECORD], VqaQuestion)
    (example,) = open_split(tmp_path, "val")
    assert (example.id, example.text, example.image_ids) == ("42001", "Which breed is it?", (RECORD["image"],))
    assert example.target == VqaAnswers(("pug", "dog", "pug"), None, "other", "what")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"scores": {"pug": 0.9}}, VqaAnswers((), {"pug": 0.9})),
        ({"scores": {}}, VqaAnswers((), {})),  # known to be none of the vocabulary
        ({"answers": ["a", "a"], "annotators": [0, 0]}, VqaAnswers(("a", "a"), annotators=(0, 0))),
    ],
    ids=["hidden", "scores", "no scores", "annotators"],
)
def test_targets(fields: dict[str, Any], expected: VqaAnswers | None, open_split: Any, tmp_path: Path) -> None:
    record = {key: RECORD[key] for key in ("id", "text", "image")} | fields
    write_annotations(tmp_path / "val.jsonl", [record], VqaQuestion)
    assert open_split(tmp_path, "val")[0].target == expected


def test_the_protocol_identifies_the_split_file(open_split: Any, tmp_path: Path) -> None:
    hashes = []
    for text in ("What?", "Who?"):
        write_annotations(tmp_path / "val.jsonl", [{**RECORD, "text": text}], VqaQuestion)
        protocol = open_split(tmp_path, "val").protocol
        assert (protocol["dataset"], protocol["annotations"]) == ("vqav2", "val.jsonl")
        hashes.append(protocol["annotations_sha256"])
    assert len(set(hashes)) == 2


def test_the_dataset_keeps_its_promises(open_split: Any, tmp_path: Path) -> None:
    write_annotations(tmp_path / "val.jsonl", [RECORD], VqaQuestion)
    check_dataset(open_split(tmp_path, "val"), [RECORD["image"]])


def test_a_damaged_line_is_named(open_split: Any, tmp_path: Path) -> None:
    write_annotations(tmp_path / "val.jsonl", [RECORD], VqaQuestion)
    with (tmp_path / "val.jsonl").open("a") as file:
        file.write('{"id": "7", "text": "x", "image": "i", "answers": []}\n')
    with pytest.raises(DataError, match=r"val.jsonl:2: answers: tuple should have at least 1 item"):
        open_split(tmp_path, "val")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "042"}, "should match pattern"),
        ({"id": "9" * 19}, "should match pattern"),
        ({"id": 42001}, "valid string"),
        ({"image": "val2014/COCO_val2014_000000000042.jpg"}, "should be written 'COCO_val2014_000000000042'"),
        ({"answers": []}, "at least 1 item"),
        ({"scores": {"pug": 1.0}}, "both answers and scores"),
        ({"answers": None, "scores": {"pug": 1.1}}, "less than or equal to 1"),
        ({"annotators": [0, 1]}, "2 annotators gave 3 answers"),
        ({"label": "pug"}, "label"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VqaQuestion.model_validate({**RECORD, **changes})


@pytest.mark.parametrize(
    ("loss", "sources"), [("bce", ["official", "lxmert", "rosita"]), ("kl", ["official", "rosita"])]
)
def test_only_sources_that_the_loss_can_use_are_offered(
    tmp_path: Path, loss: str, sources: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vqa.yaml").write_text(EXPERIMENT.format(loss=loss))
    assert main(["validate", str(tmp_path / "vqa.yaml"), f"data_root={tmp_path}"]) == 5
    said = capsys.readouterr().err
    assert re.findall(r"runner data build vqav2 --from ([a-z]+) ", said) == sources
    assert "--extractor bua-caffe --boxes 36" in said


def test_missing_files_come_with_the_commands_that_make_them(tmp_path: Path) -> None:
    config = VqaV2Config(
        name="vqav2", annotations=tmp_path / "notes", features=tmp_path / "store", evaluate=["minival"]
    )
    files = {file.path.name: file.remedy for file in config.required_files()}
    assert list(files) == ["train.jsonl", "minival.jsonl", "store"]
    for source in ("official", "lxmert", "rosita"):
        assert f"runner data build vqav2 --from {source} FOLDER {tmp_path}/notes" in files["minival.jsonl"]
    assert "v2_Annotations_{Train,Val}_mscoco.zip" in files["train.jsonl"]
    assert f"train2014_obj36.tsv val2014_obj36.tsv {tmp_path}/store" in files["store"]


def test_a_split_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no split 'minval'.*Did you mean 'minival'"):
        VqaV2Config(name="vqav2", annotations=tmp_path, features=tmp_path, evaluate=["minval"])


def test_the_plugin_module_imports_neither_torch_nor_numpy() -> None:
    check = (
        "import sys, vlrun_vqa.plugin as p; p.vlrun_tasks(); p.vlrun_datasets(); p.vlrun_submissions(); "
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_sample_line_of_the_readme_is_a_record() -> None:
    readme = (Path(__file__).parents[3] / "plugins/vqa/README.md").read_text(encoding="utf-8")
    line = readme.split("```json\n")[1].split("\n```")[0]
    assert VqaQuestion.model_validate_json(line).id == "458752000"
