"""The records of a split as examples, and what an experiment is told about files that are not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlrun import DataError, Referent
from vlrun.data.annotations import write_annotations
from vlrun.testing import check_dataset
from vlrun_rec.config import RefCocoConfig, RefCocogConfig
from vlrun_rec.dataset import ReferringExpressions
from vlrun_rec.records import ReferringExpression

RECORD = {
    "id": "20",
    "text": "guy with hat",
    "raw": "Guy w/ hat",
    "image": "COCO_train2014_000000000321",
    "width": 640,
    "height": 480,
    "box": [10.5, 20, 100, 200.25],
    "ref_id": 9,
}


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Any]:
    def make(model: type = RefCocoConfig, **options: Any) -> Any:
        paths = {"annotations": tmp_path / "annotations", "features": tmp_path / "store"}
        return model(**{"name": "refcoco", "evaluate": ["val"], **paths, **options})

    return make


def test_an_expression_is_an_example_with_its_referent(make_config: Callable[..., Any]) -> None:
    config = make_config()
    write_annotations(config.split_file("val"), [{**RECORD, "split_by": "unc"}], ReferringExpression)
    dataset = ReferringExpressions(config, "val")
    assert len(dataset) == 1
    example = dataset[0]
    assert (example.id, example.text, example.image_ids) == ("20", "guy with hat", ("COCO_train2014_000000000321",))
    assert example.target == Referent((10.5, 20.0, 100.0, 200.25), 480, 640, 9)
    assert list(dataset.image_ids()) == ["COCO_train2014_000000000321"]


def test_the_protocol_identifies_the_split_file(make_config: Callable[..., Any]) -> None:
    config = make_config()
    write_annotations(config.split_file("val"), [RECORD], ReferringExpression)
    first = ReferringExpressions(config, "val").protocol
    write_annotations(config.split_file("val"), [{**RECORD, "text": "hat"}], ReferringExpression)
    second = ReferringExpressions(config, "val").protocol
    assert first["annotations"] == "val.jsonl"
    assert first["split_by"] == "unc"
    assert len(first["annotations_sha256"]) == 12
    assert first["annotations_sha256"] != second["annotations_sha256"]


def test_the_dataset_keeps_its_promises(make_config: Callable[..., Any]) -> None:
    config = make_config()
    write_annotations(config.split_file("val"), [RECORD], ReferringExpression)
    check_dataset(ReferringExpressions(config, "val"), [RECORD["image"]])


def test_splits_of_somebody_else_are_refused(make_config: Callable[..., Any]) -> None:
    config = make_config(RefCocogConfig, name="refcocog")
    write_annotations(config.split_file("val"), [{**RECORD, "split_by": "google"}], ReferringExpression)
    with pytest.raises(DataError, match=r"val.jsonl: refcocog split by 'google'.*split_by 'umd'"):
        ReferringExpressions(config, "val")
    assert len(ReferringExpressions(config.model_copy(update={"split_by": "google"}), "val")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "train2014/COCO_train2014_000000000321.jpg"}, "should be written 'COCO_train2014_000000000321'"),
        ({"box": [10, 20, -1, 5]}, "greater than or equal to 0"),
        ({"box": [10, 20, float("nan"), 5]}, "finite"),
        ({"box": [10, 20, 30]}, "box.3"),
        ({"box": [10, 500, 30, 30]}, "outside the image of 640 x 480"),
        ({"width": 0}, "greater than 0"),
        ({"id": ""}, "at least 1 character"),
        ({"bbox": [1, 2, 3, 4]}, "bbox"),
    ],
    ids=["path", "negative", "nan", "three numbers", "outside", "no width", "no id", "unknown field"],
)
def test_a_record_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReferringExpression.model_validate({**RECORD, **changes})


def test_a_box_of_zero_area_is_allowed() -> None:  # COCO has a few
    assert ReferringExpression.model_validate({**RECORD, "box": [10, 20, 0, 5]}).box[2] == 0


def test_missing_files_come_with_the_commands_that_make_them(make_config: Callable[..., Any], tmp_path: Path) -> None:
    config = make_config(name="refcoco+", evaluate=["val", "testA"])
    files = {file.path.name: file.remedy for file in config.required_files()}
    assert list(files) == ["train.jsonl", "val.jsonl", "testA.jsonl", "store"]
    assert "refcoco+.zip" in files["val.jsonl"]
    assert f"runner data build refcoco+ --from official FOLDER {tmp_path}/annotations\n" in files["val.jsonl"]
    assert "runner data build refcoco+ --from rosita FILE" in files["val.jsonl"]
    command = f"runner features build --from rosita-tsv FOLDER {tmp_path}/store --extractor bua-caffe --boxes 36\n"
    assert command in files["store"]


def test_googles_split_of_refcocog_has_its_own_remedy(make_config: Callable[..., Any]) -> None:
    config = make_config(RefCocogConfig, name="refcocog", split_by="google")
    remedy = config.required_files()[0].remedy
    assert "--from official-google FOLDER" in remedy
    assert "--from rosita" not in remedy


def test_the_plugin_module_imports_neither_torch_nor_numpy() -> None:
    check = "import sys, vlrun_rec.plugin as p; p.vlrun_datasets(); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_sample_line_of_the_readme_is_a_record() -> None:
    readme = (Path(__file__).parents[3] / "plugins/rec/README.md").read_text(encoding="utf-8")
    line = readme.split("```json\n")[1].split("\n```")[0]
    assert ReferringExpression.model_validate_json(line).id == "20"
