"""Predictions -> accuracy at an IoU threshold, with the protocol that makes the number comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError, Dataset, Metric, Prediction, Referent, Score
from vlrun.blocks.boxes import iou, xywh_to_xyxy
from vlrun.blocks.predictions import mismatches
from vlrun_rec.config import GroundingAccuracyConfig


class GroundingAccuracy(Metric):
    """Share of expressions whose predicted box overlaps the annotated one enough, in percent.

    Scores:
        accuracy: over expressions, each counted once. Papers report this one.
        accuracy-by-referent: mean over referents of the mean over their expressions; rarely reported, another number.
        oracle: share of expressions for which *some* candidate box, before refinement, overlaps enough: what a perfect
            ranking of these boxes would reach. Numbers on boxes with different oracles are not comparable.

    IoU is computed anew from the boxes, so ``runner score`` can repeat it from a file of predictions.
    """

    def __init__(self, config: GroundingAccuracyConfig, box: str = "as predicted") -> None:
        self.config = config
        self.box = box

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Referent]) -> list[Score]:
        examples = list(dataset)
        ids = [example.id for example in examples]
        if problems := mismatches(predictions, ids, split=dataset.split, unit="expressions"):
            raise DataError(problems)
        fields = {prediction.id: prediction.fields for prediction in predictions}
        targets = [_target(example.id, example.target) for example in examples]
        boxes = np.array([_box(example.id, fields[example.id]) for example in examples])
        hits = self._is_hit(iou(boxes, xywh_to_xyxy([target.box for target in targets]), self.config.iou_rule))

        accuracy = Score.mean("accuracy", hits, protocol=self._protocol(dataset), primary=True)
        scores = [accuracy]
        if all(target.ref_id is not None for target in targets):
            by_referent = _means_by_group(hits, [target.ref_id for target in targets])
            scores.append(
                Score.mean("accuracy-by-referent", by_referent, protocol={**accuracy.protocol, "unit": "referents"})
            )
        overlaps = [self._best_region_iou(example.id, fields[example.id]) for example in examples]
        if all(overlap is not None for overlap in overlaps):
            reachable = self._is_hit(np.array(overlaps, dtype=np.float64))
            protocol = {**accuracy.protocol, "box": "best candidate, as detected"}
            scores.append(Score.mean("oracle", reachable, protocol=protocol))
        return scores

    def _is_hit(self, overlap: NDArray[np.float64]) -> NDArray[np.bool_]:
        threshold = self.config.iou_threshold
        return overlap >= threshold if self.config.comparison == ">=" else overlap > threshold

    def _protocol(self, dataset: Dataset[Any]) -> dict[str, str]:
        return {
            "unit": "sentences",
            "iou_rule": self.config.iou_rule,
            "hit": f"IoU {self.config.comparison} {self.config.iou_threshold:g}",
            "box": self.box,
        }

    def _best_region_iou(self, name: str, fields: Mapping[str, Any]) -> float | None:
        """Written by the task; of no use under another IoU rule, and absent in predictions made elsewhere."""
        value = fields.get("best_region_iou")
        if value is None or fields.get("iou_rule") != self.config.iou_rule:
            return None
        if not (type(value) in (int, float) and np.isfinite(value)):
            raise DataError(f"prediction '{name}': best_region_iou should be a number, it is {value!r}")
        return float(value)


def _target(name: str, target: Referent | None) -> Referent:
    if target is None:
        raise DataError(f"expression '{name}' has no annotated box, so it cannot be scored")
    return target


def _box(name: str, fields: Mapping[str, Any]) -> list[float]:
    box = fields.get("box")
    if isinstance(box, Sequence) and len(box) == 4 and all(isinstance(value, int | float) for value in box):
        values = [float(value) for value in box]
        if np.isfinite(values).all():
            return values
    raise DataError(f"prediction '{name}': box should be [x1, y1, x2, y2] in pixels, it is {box!r}")


def _means_by_group(values: NDArray[np.bool_], groups: Sequence[Any]) -> NDArray[np.float64]:
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)
