"""Overlap rules, box deltas and clipping, against the authors' functions and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vlrun.blocks.boxes import (
    IOU_RULES,
    clip_to_image,
    decode_deltas,
    encode_deltas,
    iou,
    pairwise_iou,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

GOLDEN_NAMES = {"plus_one": "plus_one_xyxy_float64", "inclusive": "inclusive_xywh", "continuous": "continuous"}


def ten_lines_of_iou(a: list[float], b: list[float], extra: float) -> float:
    """The obvious computation, for one pair."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.golden
@pytest.mark.parametrize("rule", IOU_RULES)
def test_every_rule_agrees_with_the_code_bases_that_use_it(rule: str, golden: Path) -> None:
    pairs = json.loads((golden / "metrics/rec/boxes.json").read_text())["pairs"]
    pairs = [pair for pair in pairs if pair["iou"][GOLDEN_NAMES[rule]] is not None]  # null: 0 / 0, tested below
    values = iou([pair["pred_xyxy"] for pair in pairs], xywh_to_xyxy([pair["gt_xywh"] for pair in pairs]), rule)
    np.testing.assert_allclose(values, [pair["iou"][GOLDEN_NAMES[rule]] for pair in pairs], atol=1e-12, rtol=0)


@pytest.mark.golden
def test_pairwise_iou_agrees_with_rosita(golden: Path) -> None:
    data = np.load(golden / "rosita/rec.npz")
    values = pairwise_iou(data["iou/boxes"], data["iou/queries"], "plus_one")
    np.testing.assert_allclose(values, data["iou/matrix"], atol=1e-12, rtol=0)


@pytest.mark.golden
def test_decoded_and_clipped_boxes_agree_with_rosita(golden: Path) -> None:
    data = np.load(golden / "rosita/rec.npz")
    boxes = decode_deltas(data["decode/anchors"], data["decode/deltas_normalised"])
    np.testing.assert_allclose(boxes, data["decode/boxes"], atol=1e-4, rtol=0)  # pixels; the original is float32
    heights, widths = data["decode/img_shape_hw"].T
    clipped = clip_to_image(boxes, heights[:, None], widths[:, None])
    np.testing.assert_allclose(clipped, data["decode/boxes_clipped"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("rule", "extra"), [("plus_one", 1.0), ("continuous", 0.0)])
def test_iou_agrees_with_the_obvious_computation(rule: str, extra: float) -> None:
    corners = np.random.default_rng(0).integers(0, 30, (2, 200, 4))
    a, b = np.sort(corners.reshape(2, 200, 2, 2), axis=2).reshape(2, 200, 4).astype(float)
    expected = [ten_lines_of_iou(one, other, extra) for one, other in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(iou(a, b, rule), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("plus_one", 1.0), ("inclusive", 0.0), ("continuous", 0.0)],
)
def test_two_equal_boxes_of_zero_area_have_a_defined_iou(rule: str, expected: float) -> None:
    with np.errstate(all="raise"):
        assert iou([5, 5, 5, 5], [5, 5, 5, 5], rule) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("plus_one", 0.1), ("inclusive", 0.0), ("continuous", 1 / 19)],
    ids=["plus_one", "inclusive: one shared pixel is nothing", "continuous"],
)
def test_rules_differ_for_boxes_that_share_one_pixel_column(rule: str, expected: float) -> None:
    assert iou([0, 0, 10, 10], [9, 0, 19, 10], rule) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", IOU_RULES)
def test_boxes_that_do_not_touch_have_no_overlap(rule: str) -> None:
    assert iou([0, 0, 10, 10], [30, 30, 40, 40], rule) == 0.0


@pytest.mark.parametrize("rule", IOU_RULES)
def test_an_inverted_box_overlaps_nothing(rule: str) -> None:
    assert iou([20, 20, 10, 10], [5, 5, 30, 30], rule) == 0.0


def test_iou_is_float64_even_for_float32_boxes() -> None:
    boxes = np.array([[0, 0, 3, 7]], np.float32)
    assert iou(boxes, boxes, "plus_one").dtype == np.float64


def test_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match=r"'plus_two'.*plus_one, inclusive, continuous"):
        iou([0, 0, 1, 1], [0, 0, 1, 1], "plus_two")  # type: ignore[arg-type]


def test_corners_and_sizes_convert_both_ways() -> None:
    np.testing.assert_array_equal(xywh_to_xyxy([10, 20, 30, 40]), [10, 20, 40, 60])
    np.testing.assert_array_equal(xyxy_to_xywh([10, 20, 40, 60]), [10, 20, 30, 40])


def test_decoding_what_was_encoded_ends_one_pixel_further() -> None:
    boxes, targets = [[10.0, 20.0, 49.0, 59.0]], [[0.0, 30.0, 99.0, 59.0]]
    decoded = decode_deltas(boxes, encode_deltas(boxes, targets))
    np.testing.assert_allclose(decoded, [[0.0, 30.0, 100.0, 60.0]], atol=1e-9)


def test_zero_deltas_return_the_box_with_one_pixel_more() -> None:
    np.testing.assert_allclose(decode_deltas([[1, 2, 3, 4]], np.zeros((1, 4))), [[1, 2, 4, 5]])


def test_an_absurd_size_becomes_the_whole_image() -> None:
    with np.errstate(all="raise"):
        boxes = decode_deltas([[10, 10, 20, 20]], [[0, 0, 1e6, 1e6]])
    np.testing.assert_array_equal(clip_to_image(boxes, [480], [640]), [[0, 0, 639, 479]])
