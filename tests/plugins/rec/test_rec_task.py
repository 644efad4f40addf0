"""Targets, losses and decoding of REC, by hand on small cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vlrun import (
    Backbone,
    BackboneOutput,
    DataError,
    Encoding,
    Example,
    Pair,
    PairEncoder,
    Prediction,
    Referent,
    RegionBatch,
)
from vlrun.testing import check_task
from vlrun.testing import make_regions as region_features
from vlrun_rec.head import GroundingLogits, RegionGroundingHead

REFERENT = [0, 0, 99, 99]  # xywh
BOXES = [[0, 0, 99, 99], [0, 0, 99, 69], [300, 300, 400, 400], [0, 0, 99, 59]]  # xyxy; IoU 1, 0.7, 0, 0.6


class _Backbone(Backbone):
    """Region states are the box features, whatever the text says."""

    hidden_size = 4

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return self._encode

    def _encode(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        tokens = torch.ones(len(pairs), 2, dtype=torch.int64)
        boxes = torch.from_numpy(regions.boxes / np.float32(640))
        return Encoding(tokens, tokens > 0, torch.from_numpy(regions.features), boxes, torch.from_numpy(regions.mask))

    def forward(self, encoding: Encoding) -> BackboneOutput:
        text = torch.zeros(*encoding.token_ids.shape, 4)
        return BackboneOutput(text, encoding.boxes, text[:, 0], encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return nn.Linear(4, 2)


def logits(scores: Any, deltas: Any = None) -> GroundingLogits:
    scores = torch.as_tensor(np.asarray(scores), dtype=torch.float32)
    return GroundingLogits(scores, torch.zeros(*scores.shape, 4) if deltas is None else torch.as_tensor(deltas))


@pytest.fixture
def batch_of(make_dataset: Any, make_regions: Any, make_batch: Any) -> Callable[..., Any]:
    """One expression that means REFERENT, with BOXES (or others) as regions, of which the backbone sees some."""

    def make(task: Any, boxes: Any = BOXES, referent: Any = REFERENT, num_regions: int = 4, count: int = 4) -> Any:
        return make_batch(task, make_dataset([referent]), make_regions([boxes], [count]), num_regions)

    return make


# --- targets ---


def test_regions_that_overlap_enough_share_the_target_by_iou(make_task: Any, batch_of: Any) -> None:
    targets = batch_of(make_task()).targets
    expected = np.array([1, 0.7, 0, 0.6]) / 2.3
    np.testing.assert_allclose(targets["rank_targets"][0], expected, atol=1e-7)
    np.testing.assert_array_equal(targets["rank_weights"], [[1, 1, 1, 1]])
    np.testing.assert_array_equal(targets["delta_weights"], [[1, 1, 0, 1]])


def test_targets_are_normalised_before_regions_are_cut_off(make_task: Any, batch_of: Any) -> None:
    targets = batch_of(make_task(), num_regions=2).targets
    np.testing.assert_allclose(targets["rank_targets"][0], [1 / 2.3, 0.7 / 2.3], atol=1e-7)
    assert targets["boxes"].shape == (1, 2, 4)


def test_padding_carries_no_target_and_no_weight(make_task: Any, batch_of: Any) -> None:
    targets = batch_of(make_task(), count=2, num_regions=6).targets
    np.testing.assert_allclose(targets["rank_targets"][0], [1 / 1.7, 0.7 / 1.7, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(targets["rank_weights"], [[1, 1, 0, 0, 0, 0]])
    assert not targets["delta_targets"][0, 2:].any()


def test_an_expression_without_a_good_region_teaches_nothing(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    batch = batch_of(task, referent=[500, 100, 80, 80])
    assert not batch.targets["rank_targets"].any()
    assert not batch.targets["delta_targets"].any()
    assert {name: count.item() for name, count in task.loss_counts(batch.targets).items()} == {"ranking": 0, "box": 0}
    losses = task.loss(logits([[3.0, 1.0, 2.0, 0.0]]), batch.targets)
    assert {name: loss.item() for name, loss in losses.items()} == {"ranking": 0, "box": 0}


def test_a_region_exactly_at_the_threshold_is_good(make_task: Any, batch_of: Any) -> None:
    boxes = [[0, 0, 99, 49], [0, 0, 99, 48], [0, 0, 1, 1], [0, 0, 1, 1]]  # IoU 0.5 and 0.49
    np.testing.assert_array_equal(batch_of(make_task(), boxes).targets["delta_weights"], [[1, 0, 0, 0]])


@pytest.mark.parametrize(("rule", "expected"), [("plus_one", 1), ("inclusive", 0), ("continuous", 0)])
def test_the_iou_rule_decides_which_regions_are_good(rule: str, expected: int, make_task: Any, batch_of: Any) -> None:
    boxes = [[0, 0, 10, 5], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    batch = batch_of(make_task(iou_rule=rule), boxes, referent=[0, 0, 10, 10.5])
    assert batch.targets["delta_weights"][0, 0] == expected


def test_a_hidden_referent_has_no_target(make_task: Any, make_regions: Any, make_encoding: Any) -> None:
    example = Example("7", "hat", ("image",), None)
    targets = make_task().collate([example], make_regions([BOXES]), make_encoding(np.ones((1, 4), bool)))
    assert not targets["rank_weights"].any()
    assert all(targets[name].isfinite().all() for name in ("rank_targets", "delta_targets", "boxes"))


def test_features_of_a_resized_image_are_refused(
    make_task: Any, make_dataset: Any, make_regions: Any, make_encoding: Any
) -> None:
    regions = make_regions([BOXES], sizes=(240, 320))
    with pytest.raises(DataError, match=r"'image': annotated as 640 x 480 pixels.*extracted from 320 x 240"):
        make_task().collate(list(make_dataset([REFERENT])), regions, make_encoding(np.ones((1, 4), bool)))


# --- losses ---


def test_the_ranking_loss_is_summed_over_regions(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    batch = batch_of(task)
    scores = np.array([2.0, 1.0, -1.0, 0.5])
    target = np.array([1, 0.7, 0, 0.6]) / 2.3
    log_shares = scores - np.log(np.exp(scores).sum())
    expected = sum(t * (np.log(t) - share) for t, share in zip(target, log_shares, strict=True) if t)
    assert task.loss(logits([scores]), batch.targets)["ranking"].item() == pytest.approx(expected, abs=1e-6)
    assert task.loss_counts(batch.targets)["ranking"].item() == 4


def test_the_box_loss_is_a_mean_over_coordinates_times_its_weight(make_task: Any, batch_of: Any) -> None:
    task = make_task(regression_weight=0.25)
    batch = batch_of(task)
    deltas = batch.targets["delta_targets"].clone()
    deltas[0, 0, 0] += 3.0  # smooth L1: 3 - 0.5
    deltas[0, 3, 1] += 0.5  # 0.5 * 0.5^2
    deltas[0, 2] += 9.0  # no good region: no loss
    loss = task.loss(logits([[0, 0, 0, 0]], deltas), batch.targets)["box"]
    assert loss.item() == pytest.approx(0.25 * (2.5 + 0.125) / 4, abs=1e-6)
    assert task.loss_counts(batch.targets)["box"].item() == 3


def test_the_sum_over_a_batch_is_the_sum_over_its_parts(
    make_task: Any, make_dataset: Any, make_regions: Any, make_batch: Any
) -> None:
    task = make_task()
    rng = np.random.default_rng(1)
    referents = [REFERENT, [0, 0, 99, 60], [500, 100, 80, 80]]
    scores, deltas = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 4))
    whole = make_batch(task, make_dataset(referents), make_regions([BOXES] * 3), 4)
    parts = [make_batch(task, make_dataset([referent]), make_regions([BOXES]), 4) for referent in referents]
    of_whole = task.loss(logits(scores, deltas), whole.targets)
    of_parts = [task.loss(logits(scores[i : i + 1], deltas[i : i + 1]), part.targets) for i, part in enumerate(parts)]
    for name, loss in of_whole.items():
        assert loss.item() == pytest.approx(sum(part[name].item() for part in of_parts), abs=1e-5)


def test_padding_with_a_masked_score_gives_a_finite_loss_and_gradient(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    batch = batch_of(task, count=2, num_regions=4)
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    masked = scores.masked_fill(~batch.encoding.region_mask, torch.finfo(torch.float32).min)
    loss = task.loss(GroundingLogits(masked, None), batch.targets)["ranking"]
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad[0, 2:].tolist() == [0, 0]
    assert scores.grad.isfinite().all()


def test_without_regression_there_is_no_box_loss(make_task: Any, batch_of: Any) -> None:
    task = make_task(regress_boxes=False)
    batch = batch_of(task)
    outputs = GroundingLogits(torch.zeros(1, 4), None)
    assert list(task.loss(outputs, batch.targets)) == list(task.loss_counts(batch.targets)) == ["ranking"]


# --- predictions ---


def test_a_prediction_names_box_region_score_and_both_overlaps(make_task: Any, batch_of: Any) -> None:
    task = make_task(regress_boxes=False)
    (prediction,) = task.predict(GroundingLogits(torch.tensor([[0.0, 5.0, 1.0, 0.0]]), None), batch_of(task))
    assert prediction.id == "0"
    assert prediction.fields["box"] == [0, 0, 99, 69]
    assert prediction.fields["region"] == 1
    assert prediction.fields["score"] == pytest.approx(np.exp(5) / (np.exp(5) + np.e + 2))
    assert prediction.fields["iou"] == pytest.approx(0.7)
    assert prediction.fields["best_region_iou"] == 1.0
    assert prediction.fields["iou_rule"] == "plus_one"


def test_zero_deltas_move_the_far_corner_by_one_pixel(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    (prediction,) = task.predict(logits([[0.0, 5.0, 1.0, 0.0]]), batch_of(task))
    assert prediction.fields["box"] == pytest.approx([0, 0, 100, 70])


def test_refined_boxes_are_clipped_to_the_image(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    deltas = np.zeros((1, 4, 4), np.float32)
    deltas[0, 2] = [0, 0, 100, 100]
    (prediction,) = task.predict(logits([[0.0, 0.0, 1.0, 0.0]], deltas), batch_of(task))
    assert prediction.fields["box"] == [0, 0, 639, 479]


def test_the_best_region_is_among_those_that_the_backbone_sees(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    boxes = [BOXES[1], BOXES[2], BOXES[0], BOXES[3]]
    (prediction,) = task.predict(logits([[0.0, 5.0]]), batch_of(task, boxes, num_regions=2))
    assert prediction.fields["best_region_iou"] == pytest.approx(0.7)


def test_equal_scores_go_to_the_first_region(make_task: Any, batch_of: Any) -> None:
    task = make_task()
    (prediction,) = task.predict(logits([[1.0, 1.0, 1.0, 1.0]]), batch_of(task))
    assert prediction.fields["region"] == 0


def test_a_hidden_referent_is_predicted_without_overlap(
    make_task: Any, make_regions: Any, make_encoding: Any, make_batch: Any, make_dataset: Any
) -> None:
    from vlrun import Batch

    task = make_task()
    encoding = make_encoding(np.ones((1, 4), bool))
    targets = task.collate([Example("7", "hat", ("image",), None)], make_regions([BOXES]), encoding)
    (prediction,) = task.predict(logits([[0.0, 5.0, 1.0, 0.0]]), Batch(("7",), encoding, targets))
    assert set(prediction.fields) == {"box", "region", "score"}


@pytest.mark.parametrize(("regress_boxes", "left_out"), [(True, 0), (False, 2)])
def test_an_imported_head_comes_without_what_this_run_does_not_do(
    regress_boxes: bool, left_out: int, make_task: Any
) -> None:
    imported = RegionGroundingHead(8).state_dict()

    tensors, lines = make_task(regress_boxes=regress_boxes).adapt_imported_head(imported, {})

    assert set(tensors) == set(RegionGroundingHead(8, regress_boxes=regress_boxes).state_dict())
    assert len(imported) - len(tensors) == left_out
    assert lines == (["grounding head: 2 tensors that refine boxes left out"] if left_out else [])


@pytest.mark.parametrize("options", [{}, {"regress_boxes": False}, {"score_padded_regions": True}])
def test_the_task_keeps_the_promises_that_the_core_relies_on(options: dict[str, Any], make_task: Any) -> None:
    regions = region_features(["image_0", "image_1", "image_2", "image_3"], feature_size=2)
    corners = regions.boxes[:, 1]
    examples = [
        Example(name, "the hat", (name,), Referent((x1, y1, x2 - x1, y2 - y1), 480, 640))
        for name, (x1, y1, x2, y2) in zip(regions.image_ids, corners.astype(float).tolist(), strict=True)
    ]
    batch = check_task(make_task(**options), _Backbone(), examples, regions)
    assert batch.targets["delta_weights"].any(dim=1).all(), "every expression has something to learn"


def test_the_head_follows_the_options(make_task: Any) -> None:
    head = make_task(regress_boxes=False, score_padded_regions=True).build_head(_Backbone())
    assert head.dense_reg is None
    assert head.score_padded_regions


def test_the_metric_follows_the_options(make_task: Any) -> None:
    (metric,) = make_task(iou_rule="inclusive", iou_threshold=0.7).metrics()
    assert (metric.config.iou_rule, metric.config.iou_threshold, metric.config.comparison) == ("inclusive", 0.7, ">=")


def test_choices_are_the_real_regions_best_first_each_with_its_refined_box(
    make_task: Any, make_regions: Any, make_encoding: Any
) -> None:
    from vlrun import Batch

    task = make_task()
    mask = np.array([[True, True, True, False]])
    targets = task.collate([Example("q", "hat", ("image",), None)], make_regions([BOXES], [3]), make_encoding(mask))
    batch = Batch(("q",), make_encoding(mask), targets)
    deltas = np.zeros((1, 4, 4), np.float32)
    deltas[0, 2] = [0, 0, 100, 100]
    outputs = logits([[0.0, 5.0, 6.0, 9.0]], deltas)

    choices = task.choices(outputs, batch)

    assert [choice.text for choice in choices] == ["region 2", "region 1", "region 0"], "padding is no place"
    (prediction,) = task.predict(logits([[0.0, 5.0, 6.0, -1e9]], deltas), batch)
    assert choices[0].box == pytest.approx(prediction.fields["box"])
    assert choices[1].box == pytest.approx([0, 0, 100, 70])
    total = sum(np.exp(score) for score in (0.0, 5.0, 6.0, 9.0))
    assert choices[1].probability == pytest.approx(np.exp(5.0) / total)


@pytest.mark.parametrize(("box", "credit"), [([0, 0, 99, 80], 1.0), ([300, 300, 400, 400], 0.0), (None, 0.0)])
def test_a_prediction_is_shown_with_both_boxes(box: list[float] | None, credit: float, make_task: Any) -> None:
    example = Example("1", "the dog", ("image",), Referent((0, 0, 99, 99), 480, 640))
    case = make_task().case(Prediction("1", {"box": box}), example)
    assert (case.texts, case.truth, case.credit) == (("the dog",), {"box": [0, 0, 99, 99]}, credit)
    (view,) = case.views
    assert (view.predicted, view.right, view.size) == (box and tuple(box), (0, 0, 99, 99), (640, 480))


def test_a_prediction_without_a_truth_shows_its_box(make_task: Any) -> None:
    case = make_task().case(Prediction("1", {"box": [1, 2, 3, 4]}), Example("1", "the dog", ("image",)))
    assert (case.truth, case.right, case.credit) == ({}, "", None)
    assert (case.predicted, case.views[0].predicted) == ("box 1, 2, 3, 4", (1, 2, 3, 4))
