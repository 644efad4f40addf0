"""Grounding accuracy: the numbers of the published evaluators, and the protocol beside each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError, Prediction, Score
from vlrun.blocks.boxes import iou, xywh_to_xyxy
from vlrun.testing import check_metric
from vlrun_rec.config import GroundingAccuracyConfig
from vlrun_rec.metric import GroundingAccuracy

# How each code base decides; metrics.md, section 4
CODE_BASES = {
    "rosita_ge": ("plus_one", ">="),
    "volta_gt": ("plus_one", ">"),
    "refer_ge": ("inclusive", ">="),
    "uniter_gt": ("inclusive", ">"),
    "continuous_ge": ("continuous", ">="),
}


def metric(**options: Any) -> GroundingAccuracy:
    return GroundingAccuracy(GroundingAccuracyConfig(name="grounding-accuracy", **options))


def predictions(boxes: Sequence[Sequence[float]], **fields: Any) -> list[Prediction]:
    return [Prediction(str(index), {"box": list(box), **fields}) for index, box in enumerate(boxes)]


def by_name(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


@pytest.mark.golden
@pytest.mark.parametrize("code_base", CODE_BASES)
def test_accuracy_agrees_with_every_code_base(code_base: str, golden: Path, make_dataset: Any) -> None:
    data = json.loads((golden / "metrics/rec/boxes.json").read_text())
    pairs = [pair for pair in data["pairs"] if pair["hit"][code_base] is not None]  # null: the original divides by 0
    expected = data["aggregate"][code_base]
    rule, comparison = CODE_BASES[code_base]
    dataset = make_dataset([pair["gt_xywh"] for pair in pairs], [pair["ref_id"] for pair in pairs])
    scores = by_name(
        metric(iou_rule=rule, comparison=comparison)(predictions([pair["pred_xyxy"] for pair in pairs]), dataset)
    )
    accuracy, by_referent = scores["accuracy"], scores["accuracy-by-referent"]
    assert accuracy.value == pytest.approx(expected["sentence_level_accuracy"] * 100, abs=1e-9)
    assert round(accuracy.value * accuracy.count / 100) == expected["hits"]
    assert accuracy.count == expected["n"]
    assert by_referent.value == pytest.approx(expected["ref_level_mean_of_sentence_means"] * 100, abs=1e-9)
    assert by_referent.count == expected["n_refs"]


@pytest.mark.golden
@pytest.mark.parametrize("code_base", CODE_BASES)
def test_every_hit_is_that_of_the_code_base(code_base: str, golden: Path, make_dataset: Any) -> None:
    pairs = json.loads((golden / "metrics/rec/boxes.json").read_text())["pairs"]
    rule, comparison = CODE_BASES[code_base]
    judge = metric(iou_rule=rule, comparison=comparison)
    hits = judge._is_hit(iou([p["pred_xyxy"] for p in pairs], xywh_to_xyxy([p["gt_xywh"] for p in pairs]), rule))
    assert hits.tolist() == [bool(pair["hit"][code_base]) for pair in pairs]  # null, 0 / 0, counts as a miss


@pytest.mark.golden
@pytest.mark.samples
@pytest.mark.parametrize("predictor", ["first", "largest", "random", "oracle"])
@pytest.mark.parametrize(("rule", "name"), [("inclusive", "inclusive"), ("plus_one", "plus_one")])
def test_real_sentences_and_detections_score_as_expected(
    predictor: str, rule: str, name: str, golden: Path, samples: Path, make_dataset: Any
) -> None:
    data = json.loads((golden / "metrics/rec/real_testA.json").read_text())
    rows = json.loads((samples / "refcoco/refcoco_unc_testA_dets.subset.json").read_text())
    chosen = [row["oracle"] if predictor == "oracle" else row["chosen"][predictor] for row in data["rows"]]
    boxes = [xywh_to_xyxy(row["pred_boxes"][pick["index"]]) for row, pick in zip(rows, chosen, strict=True)]
    targets = [row["gt_box"] for row in rows]
    iou_key = "iou_inclusive_xywh" if rule == "inclusive" else "iou_plus_one"
    assert iou(boxes, xywh_to_xyxy(targets), rule).tolist() == pytest.approx(
        [pick[iou_key] for pick in chosen], abs=1e-9
    )
    scores = by_name(metric(iou_rule=rule)(predictions(boxes), make_dataset(targets)))
    expected = data["aggregate"][predictor][f"acc_{name}_ge_0.5"]
    assert scores["accuracy"].value == pytest.approx(expected * 100, abs=1e-9)


def test_every_score_names_what_makes_it_comparable(make_dataset: Any) -> None:
    dataset = make_dataset([[0, 0, 10, 10]], [3])
    fields = {"best_region_iou": 0.4, "iou_rule": "plus_one"}
    scores = metric()(predictions([[0, 0, 10, 10]], **fields), dataset)
    assert [(score.name, score.value, score.primary) for score in scores] == [
        ("accuracy", 100, True),
        ("accuracy-by-referent", 100, False),
        ("oracle", 0, False),
    ]
    assert scores[0].protocol == {
        "unit": "sentences",
        "iou_rule": "plus_one",
        "hit": "IoU >= 0.5",
        "box": "as predicted",
    }
    assert scores[1].protocol["unit"] == "referents"
    assert scores[2].protocol["box"] == "best candidate, as detected"


def test_a_referent_with_many_sentences_weighs_as_one_with_a_single_one(make_dataset: Any) -> None:
    hit, miss = [0, 0, 10, 10], [300, 300, 310, 310]
    dataset = make_dataset([[0, 0, 10, 10]] * 4, [8, 8, 8, 2])
    scores = by_name(metric()(predictions([hit, hit, miss, miss]), dataset))
    assert scores["accuracy"].value == pytest.approx(50)
    assert scores["accuracy-by-referent"].value == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert scores["accuracy"].standard_error == pytest.approx(100 * (1 / 3) ** 0.5 / 2)
    assert scores["accuracy-by-referent"].standard_error == pytest.approx(100 * (2 / 3) / 2)


def test_without_referents_there_is_no_score_by_referent(make_dataset: Any) -> None:
    assert list(by_name(metric()(predictions([[0, 0, 9, 9]]), make_dataset([[0, 0, 9, 9]])))) == ["accuracy"]


@pytest.mark.parametrize(
    "fields", [{}, {"best_region_iou": 0.9, "iou_rule": "inclusive"}], ids=["absent", "other rule"]
)
def test_an_oracle_that_cannot_be_known_is_left_out(fields: dict[str, Any], make_dataset: Any) -> None:
    scores = metric()(predictions([[0, 0, 9, 9]], **fields), make_dataset([[0, 0, 9, 9]]))
    assert "oracle" not in by_name(scores)


def test_iou_is_computed_from_the_boxes_and_not_taken_on_trust(make_dataset: Any) -> None:
    scores = metric()(predictions([[300, 300, 310, 310]], iou=1.0), make_dataset([[0, 0, 10, 10]]))
    assert scores[0].value == 0


def test_predictions_survive_a_file(make_dataset: Any) -> None:
    dataset = make_dataset([[0.1, 0.2, 10.3, 10.7]] * 2)
    made = predictions([[0.1, 0.2, 10.3, 1 / 3 + 5], [1e-9, 0.2, 10.3, 10]])
    read = [json.loads(json.dumps(prediction.as_json())) for prediction in made]
    again = [Prediction(row.pop("id"), row) for row in read]
    assert metric()(again, dataset) == metric()(made, dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made[:-1], r"'testA': 1 expressions have no prediction: 6"),
        (lambda made: made[:1], r"6 expressions have no prediction: 1, 2, 3, 4, 5, \.\.\."),
        (lambda made: [*made, Prediction("99", made[0].fields)], "1 expressions were predicted but are not there: 99"),
        (lambda made: [*made, made[2]], "1 expressions were predicted more than once: 2"),
        (lambda made: [*made[:-1], Prediction("6", {"box": [1, 2, 3]})], r"'6': box should be \[x1.*it is \[1, 2, 3\]"),
        (lambda made: [*made[:-1], Prediction("6", {"box": [1, 2, 3, float("nan")]})], "'6': box should be"),
        (lambda made: [*made[:-1], Prediction("6", {})], "'6': box should be .* it is None"),
    ],
    ids=["missing", "many missing", "unknown", "duplicate", "three numbers", "nan", "no box"],
)
def test_predictions_that_do_not_fit_the_split_are_refused(
    change: Callable[[list[Prediction]], list[Prediction]], message: str, make_dataset: Any
) -> None:
    dataset = make_dataset([[0, 0, 10, 10]] * 7)
    with pytest.raises(DataError, match=message):
        metric()(change(predictions([[0, 0, 10, 10]] * 7)), dataset)


def test_the_order_of_predictions_does_not_matter(make_dataset: Any) -> None:
    dataset = make_dataset([[0, 0, 10, 10], [50, 50, 20, 20]])
    made = predictions([[0, 0, 10, 10], [0, 0, 1, 1]])
    assert metric()(made[::-1], dataset) == metric()(made, dataset)


def test_the_metric_keeps_its_promises(make_dataset: Any) -> None:
    fields = {"best_region_iou": 0.9, "iou_rule": "plus_one"}
    dataset = make_dataset([[0, 0, 10, 10], [50, 50, 20, 20]], [3, 4])
    check_metric(metric(), dataset, predictions([[0, 0, 9, 9], [0, 0, 9, 9]], **fields))


@pytest.mark.parametrize("value", ["0.9", {"iou": 0.9}, float("nan"), True])
def test_an_oracle_that_is_no_number_is_refused(value: Any, make_dataset: Any) -> None:
    fields = {"best_region_iou": value, "iou_rule": "plus_one"}
    with pytest.raises(DataError, match="prediction '0': best_region_iou should be a number, it is"):
        metric()(predictions([[0, 0, 9, 9]], **fields), make_dataset([[0, 0, 9, 9]]))
