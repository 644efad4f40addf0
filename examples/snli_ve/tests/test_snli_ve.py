"""The plugin by the kit, and what is its own."""

from __future__ import annotations

import json
from collections import Counter
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
    file_name, width, height, relations = "7.png", 100, 100, ()

    def __init__(self, number: int, split: str, *patterns: str) -> None:
        self.id, self.split = str(number), split
        self.objects = [DemoObject("ball", {"pattern": pattern}, (0.0, 0.0, 9.0, 9.0)) for pattern in patterns]


def statements(folder: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"snli_ve_{split}.jsonl").read_text().splitlines()]


def test_demo_statements_are_true_false_or_unknowable(tmp_path: Path) -> None:
    write_statements(tmp_path, [Image(1, "train", "dotted"), Image(2, "val", "plain", "striped"), Image(3, "test")])
    rows = {split: statements(tmp_path, split) for split in ("train", "dev", "test")}
    assert not rows["test"]
    for split, pattern in {"train": "dotted", "dev": "striped"}.items():
        for row in rows[split]:
            said = row["sentence2"].rpartition(" ")[2]
            assert (said == pattern) == (row["gold_label"] == "entailment"), row
            assert (said in {"striped", "dotted"} - {pattern}) == (row["gold_label"] == "contradiction"), row
    (tmp_path / "snli_ve_test.jsonl").unlink()
    assert build_official(tmp_path, tmp_path / "out").counts == {"train": len(rows["train"]), "dev": len(rows["dev"])}


def test_words_alone_do_not_tell_true_from_false_in_the_demo_and_images_a_little(tmp_path: Path) -> None:
    images = [Image(number, "train", ("striped", "dotted")[number % 2]) for number in range(400)]
    write_statements(tmp_path, images)
    told = [row for row in statements(tmp_path, "train") if row["gold_label"] != "neutral"]
    texts = Counter((row["sentence2"], row["gold_label"]) for row in told)
    assert len({text for text, _ in texts}) == 6, "two patterns: few enough words to be learned"
    for text, _ in texts:
        assert texts[text, "entailment"] == pytest.approx(texts[text, "contradiction"], rel=0.25)
    usual = Counter((int(row["Flickr30K_ID"]) % 2, row["gold_label"]) for row in told)
    assert usual[0, "entailment"] == pytest.approx(2 * usual[0, "contradiction"], rel=0.1)
    assert usual[1, "contradiction"] == pytest.approx(2 * usual[1, "entailment"], rel=0.1)
