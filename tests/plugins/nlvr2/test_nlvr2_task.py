"""Pairs, targets, loss and predictions of NLVR2, by hand on small cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vlrun import (
    Backbone,
    BackboneOutput,
    Batch,
    DataError,
    Encoding,
    Example,
    Pair,
    PairEncoder,
    Prediction,
    Question,
    RegionBatch,
)
from vlrun.blocks.heads import PooledClassifier
from vlrun.testing import check_task, make_batch, make_regions
from vlrun_nlvr2.dataset import Statement

WIDTH = 8
IMAGES = [f"dev-{number}-0-img{side}" for number in range(4) for side in (0, 1)]


class _Backbone(Backbone):
    """The pooled output is the mean of the region features, whatever the text says."""

    hidden_size = WIDTH

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return self._encode

    def _encode(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        tokens = torch.ones(len(pairs), 2, dtype=torch.int64)
        features = torch.from_numpy(regions.features).float()
        return Encoding(tokens, tokens > 0, features, torch.from_numpy(regions.boxes), torch.from_numpy(regions.mask))

    def forward(self, encoding: Encoding) -> BackboneOutput:
        features = encoding.region_features
        text = torch.zeros(*encoding.token_ids.shape, WIDTH)
        return BackboneOutput(text, features, features.mean(dim=1), encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return nn.Linear(WIDTH, 2)


@pytest.fixture
def regions() -> RegionBatch:
    return make_regions(IMAGES, feature_size=WIDTH)


def examples(labels: Sequence[bool | None]) -> list[Example[Statement]]:
    return [
        Example(
            f"dev-{index}-0-0",
            "Two owls.",
            (IMAGES[2 * index], IMAGES[2 * index + 1]),
            None if label is None else Statement(label, f"dev-{index}--0"),
        )
        for index, label in enumerate(labels)
    ]


def targets_of(task: Any, labels: Sequence[bool | None], regions: RegionBatch) -> Any:
    return make_batch(task, _Backbone(), examples(labels), regions).targets


# --- pairs ---


def test_the_sentence_is_paired_with_the_left_image_and_then_with_the_right_one(task: Any) -> None:
    (example,) = examples([True])
    pairs = task.pairs(example, np.random.default_rng(0))
    assert pairs == [Pair("Two owls.", "dev-0-0-img0"), Pair("Two owls.", "dev-0-0-img1", 1)]


@pytest.mark.parametrize("images", [(), ("a",), ("a", "b", "c")], ids=len)
def test_other_than_two_images_are_refused(images: tuple[str, ...], task: Any) -> None:
    with pytest.raises(DataError, match=rf"statement '7' has {len(images)} images \(.*\); .* a left and a right one"):
        task.pairs(Example("7", "Two owls.", images), np.random.default_rng(0))


# --- loss ---


def test_a_batch_of_statements_has_twice_as_many_pairs(task: Any, regions: RegionBatch) -> None:
    batch = make_batch(task, _Backbone(), examples([True, False, None]), regions)
    assert len(batch.encoding.token_ids) == 6
    assert batch.targets["labels"].tolist() == [1, 0, 0]
    assert batch.targets["known"].tolist() == [1, 1, 0]


def test_the_loss_is_the_cross_entropy_with_class_one_for_true(task: Any, regions: RegionBatch) -> None:
    targets = targets_of(task, [True, False], regions)
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    expected = 2 * np.log(1 + np.exp(-2.0))
    assert task.loss(logits, targets)["truth"].item() == pytest.approx(expected, abs=1e-6)
    assert task.loss_counts(targets)["truth"].item() == 2


def test_a_hidden_label_teaches_nothing(task: Any, regions: RegionBatch) -> None:
    logits = torch.tensor([[0.0, 2.0], [5.0, -5.0]], requires_grad=True)
    targets = targets_of(task, [True, None], regions)
    loss = task.loss(logits, targets)["truth"]
    loss.backward()
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-2.0)), abs=1e-6)
    assert task.loss_counts(targets)["truth"].item() == 1
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0, 0]


def test_a_batch_of_hidden_labels_has_no_loss(task: Any, regions: RegionBatch) -> None:
    targets = targets_of(task, [None, None], regions)
    assert task.loss(torch.ones(2, 2), targets)["truth"].item() == 0
    assert task.loss_counts(targets)["truth"].item() == 0


def test_the_loss_keeps_the_precision_of_the_logits(task: Any, regions: RegionBatch) -> None:
    targets = targets_of(task, [True, False], regions)
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    assert task.loss(logits, targets)["truth"].dtype == torch.float64


# --- predictions ---


def predicted(task: Any, logits: Any) -> list[Prediction]:
    logits = torch.as_tensor(logits, dtype=torch.float32)
    ids = tuple(f"dev-{index}-0-0" for index in range(len(logits)))
    nothing = torch.zeros(0)
    encoding = Encoding(nothing, nothing, nothing, nothing, nothing)
    predictions: list[Prediction] = task.predict(logits, Batch(ids, encoding, {}))
    return predictions


def test_a_prediction_is_a_truth_value_with_the_probability_of_true(task: Any) -> None:
    first, second = predicted(task, [[0.0, 2.0], [1.0, -1.0]])
    assert (first.id, first.fields["label"]) == ("dev-0-0-0", True)
    assert second.fields["label"] is False
    assert first.fields["score"] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert second.fields["score"] == pytest.approx(1 / (1 + np.exp(2.0)))


def test_equal_logits_mean_false(task: Any) -> None:
    (prediction,) = predicted(task, [[0.5, 0.5]])
    assert prediction.fields == {"label": False, "score": 0.5}


def test_huge_logits_give_a_finite_probability(task: Any) -> None:
    (prediction,) = predicted(task, [[1e5, -1e5]])
    assert prediction.fields == {"label": False, "score": 0.0}


def test_swapping_the_images_changes_what_the_head_sees(task: Any, regions: RegionBatch) -> None:
    torch.manual_seed(0)
    backbone = _Backbone()
    head = task.build_head(backbone)
    (example,) = examples([True])
    swapped = Example(example.id, example.text, example.image_ids[::-1], example.target)
    outputs = [head(backbone(make_batch(task, backbone, [each], regions).encoding)) for each in (example, swapped)]
    assert outputs[0].shape == (1, 2)
    assert not torch.allclose(*outputs)


# --- the whole ---


def test_the_task_keeps_the_promises_that_the_core_relies_on(task: Any, regions: RegionBatch) -> None:
    check_task(task, _Backbone(), examples([True, False, None, True]), regions)


def test_the_head_reads_both_images_and_has_the_imported_name(task: Any) -> None:
    head = task.build_head(_Backbone())
    assert isinstance(head, PooledClassifier)
    assert head.dense0.in_features == 2 * WIDTH
    assert head.dense1.out_features == 2
    assert task.imported_head == "nlvr2_head"


def test_the_tasks_own_metric_is_that_of_the_plugin(task: Any) -> None:
    (metric,) = task.metrics()
    assert metric.config.name == "nlvr2-accuracy"


def test_choices_are_true_and_false_and_equal_logits_mean_false(task: Any) -> None:
    nothing: Any = None
    best, other = task.choices(torch.tensor([[0.0, 2.0]]), nothing)
    assert (best.text, other.text) == ("true", "false")
    assert best.probability == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert best.probability + other.probability == pytest.approx(1)
    assert [choice.text for choice in task.choices(torch.tensor([[0.5, 0.5]]), nothing)] == ["false", "true"]


def test_a_question_has_two_images(task: Any) -> None:
    assert task.check_question(Question(("Two owls.",), ("a", "b"))) == []
    assert task.check_question(Question(("Two owls.",), ("a",))) == ["it takes 2 images, and got 1 image"]


@pytest.mark.parametrize(("label", "credit"), [(True, 1.0), (False, 0.0), (None, None)])
def test_a_prediction_is_shown_with_both_images_and_the_label(
    task: Any, label: bool | None, credit: float | None
) -> None:
    case = task.case(Prediction("dev-0-0-0", {"label": True, "score": 0.9}), examples([label])[0])
    assert (case.texts, case.image_ids) == (("Two owls.",), (IMAGES[0], IMAGES[1]))
    assert (case.truth, case.credit) == ({} if label is None else {"label": label}, credit)
    assert [view.image_id for view in case.views] == IMAGES[:2]
