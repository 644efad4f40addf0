"""The task: losses and answers of LXMERT's GQA program, and what the metric is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vlrun import (
    Answers,
    Backbone,
    BackboneOutput,
    Batch,
    Encoding,
    Example,
    Pair,
    PairEncoder,
    Prediction,
    RegionBatch,
)
from vlrun.testing import check_task, make_regions
from vlrun_gqa.config import GqaConfig
from vlrun_gqa.dataset import GqaAnswer
from vlrun_gqa.plugin import vlrun_datasets, vlrun_metrics, vlrun_tasks


class _Backbone(Backbone):
    """The pooled output is the mean box feature, whatever the text says."""

    hidden_size = 4

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return self._encode

    def _encode(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        tokens = torch.ones(len(pairs), 2, dtype=torch.int64)
        boxes = torch.from_numpy(regions.boxes)
        return Encoding(tokens, tokens > 0, torch.from_numpy(regions.features), boxes, torch.from_numpy(regions.mask))

    def forward(self, encoding: Encoding) -> BackboneOutput:
        text = torch.zeros(*encoding.token_ids.shape, 4)
        pooled = encoding.boxes.mean(dim=1) / 100
        return BackboneOutput(text, encoding.boxes, pooled, encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return nn.Linear(4, 2)


def examples_of(answers: Sequence[str | None], ids: Sequence[str] | None = None) -> list[Example[Answers]]:
    return [
        Example(name, "Is the kite red?", (f"image_{number}",), None if answer is None else GqaAnswer((answer,)))
        for number, (name, answer) in enumerate(zip(ids or map(str, range(len(answers))), answers, strict=True))
    ]


def batch_of(task: Any, examples: Sequence[Example[Answers]]) -> Batch:
    regions = make_regions([example.image_ids[0] for example in examples], feature_size=2)
    encoding = _Backbone()._encode([Pair("", "")] * len(examples), regions)
    return Batch(tuple(example.id for example in examples), encoding, task.collate(examples, regions, encoding))


@pytest.mark.golden
@pytest.mark.parametrize(("loss", "key"), [("bce", "bce_loss"), ("cross-entropy", "mce_loss")])
def test_losses_are_those_of_lxmerts_program(loss: str, key: str, outputs: dict[str, Any], make_task: Any) -> None:
    task = make_task(outputs["answers"], loss=loss)
    first = slice(outputs["batch_size"])
    batch = batch_of(task, examples_of(outputs["gold"][first]))
    found = task.loss(torch.from_numpy(outputs["logits"][first]), batch.targets)["answer"]
    mean = found.item() / task.loss_counts(batch.targets)["answer"].item()
    assert mean == pytest.approx(outputs["losses"][key], rel=1e-6)


@pytest.mark.golden
def test_answers_accuracy_and_file_are_those_of_lxmerts_program(
    outputs: dict[str, Any], make_task: Any, make_dataset: Any, tmp_path: Path
) -> None:
    task = make_task(outputs["answers"])
    examples = examples_of(outputs["gold"], outputs["question_ids"])
    predictions = task.predict(torch.from_numpy(outputs["logits"]), batch_of(task, examples))
    assert [prediction.fields["answer"] for prediction in predictions] == outputs["predictions"]
    (metric,) = task.metrics()
    scores = metric(predictions, make_dataset(*({"answer": answer} for answer in outputs["gold"])))
    assert scores[0].value == pytest.approx(100 * outputs["score"])
    task.write_submission(predictions, tmp_path / "submit.json")
    submitted = [(row["questionId"], row["prediction"]) for row in json.loads((tmp_path / "submit.json").read_text())]
    assert submitted == list(zip(outputs["question_ids"], outputs["predictions"], strict=True))


def test_the_loss_is_lxmerts_unless_an_experiment_says_otherwise(make_task: Any) -> None:
    config = make_task().config
    assert isinstance(config, GqaConfig)
    assert (config.loss, config.scale_by_answers, config.transfer_head) == ("bce", True, True)


def test_answers_outside_the_vocabulary_and_hidden_ones_differ(make_task: Any) -> None:
    targets = batch_of(make_task(), examples_of(["no", "unheard of", None])).targets
    assert targets["soft_scores"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert targets["known"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("loss", ["bce", "cross-entropy"])
def test_the_task_keeps_the_promises_that_the_core_relies_on(loss: str, make_task: Any) -> None:
    examples = examples_of(["yes", "no", "left", "unheard of"])
    regions = make_regions([example.image_ids[0] for example in examples], feature_size=2)
    check_task(make_task(loss=loss), _Backbone(), examples, regions)


def test_the_metric_knows_the_vocabulary(make_task: Any, make_dataset: Any) -> None:
    task = make_task()
    (metric,) = task.metrics()
    predictions = task.predict(torch.eye(2, 4), batch_of(task, examples_of(["yes", "no"])))
    scores = {score.name: score.value for score in metric(predictions, make_dataset({}, {"answer": "unheard of"}))}
    assert (scores["accuracy"], scores["upper-bound"]) == (50, 50)


def test_task_and_dataset_fit_together() -> None:
    (task,), (dataset,), (metric,) = vlrun_tasks(), vlrun_datasets(), vlrun_metrics()
    assert task.target == dataset.target == "gqa-answer"
    assert metric.build(metric.load_config()(name="gqa-accuracy")).vocabulary is None


@pytest.mark.parametrize(("answer", "credit"), [("red", 1.0), ("Red", 0.0)])
def test_a_prediction_is_shown_with_the_one_right_answer(answer: str, credit: float, make_task: Any) -> None:
    case = make_task(["red"]).case(Prediction("0", {"answer": answer}), examples_of(["red"])[0])
    assert (case.truth, case.right, case.credit) == ({"answer": "red"}, "red", credit)
