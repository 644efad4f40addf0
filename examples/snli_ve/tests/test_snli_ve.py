"""The plugin by the kit, and what is its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vlrun_snli_ve.build import build_official
from vlrun_snli_ve.config import LABELS, EntailmentConfig, SnliVeConfig
from vlrun_snli_ve.dataset import Statements
from vlrun_snli_ve.demo import write_statements
from vlrun_snli_ve.metric import EntailmentAccuracy
from vlrun_snli_ve.task import EntailmentTask

from vlrun import DataError, DemoObject, Prediction
from vlrun.testing import (
    StubBackbone,
    check_dataset,
    check_metric,
    check_plugin,
    check_task,
    make_regions,
    private_imports,
)

ROW = {
    "gold_label": "neutral",
    "sentence1": "A man rides a horse.",
    "sentence2": "A person trains a horse.",
    "pairID": "3416050480.jpg#4r1n",
    "captionID": "3416050480.jpg#4",
    "Flickr30K_ID": "3416050480",
    "annotator_labels": ["neutral", "neutral"],
}
ROWS = [{**ROW, "pairID": f"{number}{label[0]}", "gold_label": label} for number in range(2) for label in LABELS]


def write_official(folder: Path, rows: list[dict[str, object]]) -> Path:
    (folder / "snli_ve_dev.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> SnliVeConfig:
    (tmp_path / "official").mkdir()
    (tmp_path / "out").mkdir()
    report = build_official(write_official(tmp_path / "official", ROWS), tmp_path / "out")
    assert report.counts == {"dev": 6}
    assert report.remarks == ("split 'dev' has 6 statements; published are 17,858",)
    return SnliVeConfig(name="snli-ve", annotations=tmp_path / "out", features=Path("none"), evaluate=["dev"])


def test_every_path_that_the_plugin_names_leads_somewhere_and_only_public_names_are_used() -> None:
    check_plugin("vlrun_snli_ve.plugin")
    import vlrun_snli_ve

    assert private_imports(Path(vlrun_snli_ve.__file__).parent) == []


def test_official_rows_become_examples(config: SnliVeConfig) -> None:
    dataset = Statements(config, "dev")
    check_dataset(dataset, images=["3416050480"])
    assert dataset[2].target.answers == ("neutral",)  # type: ignore[union-attr]
    assert dataset[2].text == "A person trains a horse."


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"snli_ve_dev\.jsonl:2: gold_label: .*'-'"):
        build_official(write_official(tmp_path, [ROW, {**ROW, "pairID": "b", "gold_label": "-"}]), tmp_path / "out")
    with pytest.raises(DataError, match=r"expected snli_ve_train\.jsonl, .*; none is there"):
        build_official(tmp_path / "out", tmp_path / "out")


def test_the_task_keeps_its_promises(config: SnliVeConfig) -> None:
    task = EntailmentTask(EntailmentConfig(name="snli-ve", dataset=config))
    dataset = Statements(config, "dev")
    batch = check_task(task, StubBackbone(), list(dataset), make_regions(["3416050480"], 8))
    assert batch.targets["soft_scores"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2


def test_accuracy_is_over_all_and_over_each_label(config: SnliVeConfig) -> None:
    dataset = Statements(config, "dev")
    answers = ["contradiction", "entailment", "entailment", "neutral", "entailment", "neutral"]
    predictions = [Prediction(example.id, {"answer": text}) for example, text in zip(dataset, answers, strict=True)]
    scores = check_metric(EntailmentAccuracy(), dataset, predictions)
    assert {score.name: (round(score.value, 2), score.count) for score in scores} == {
        "accuracy": (66.67, 6),
        "accuracy-contradiction": (50, 2),
        "accuracy-entailment": (100, 2),
        "accuracy-neutral": (50, 2),
    }


class Image:
    id, file_name, width, height, relations = "7", "7.png", 100, 100, ()

    def __init__(self, split: str, name: str) -> None:
        self.split = split
        self.objects = [DemoObject(name, {"colour": "red"}, (0.0, 0.0, 9.0, 9.0))]


def test_demo_statements_are_true_false_or_unknowable(tmp_path: Path) -> None:
    write_statements(tmp_path, [Image("train", "ball"), Image("val", "cat"), Image("test", "ring")])
    rows = [json.loads(line) for line in (tmp_path / "snli_ve_dev.jsonl").read_text().splitlines()]
    assert [row["gold_label"] for row in rows] == ["entailment", "contradiction", "neutral"] * (len(rows) // 3)
    for row in rows:
        assert (row["sentence2"] == "there is a cat") == (row["gold_label"] == "entailment"), row
        assert row["sentence2"].startswith("the cat is ") == (row["gold_label"] == "neutral"), row
    assert build_official(tmp_path, tmp_path / "out").counts == dict.fromkeys(("train", "dev", "test"), len(rows))
