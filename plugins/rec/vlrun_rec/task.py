"""Referring expression comprehension as ROSITA trains it: rank the regions, refine the box of the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vlrun import (
    Backbone,
    Batch,
    Case,
    Choice,
    DataError,
    Encoding,
    Example,
    Metric,
    Prediction,
    Referent,
    RegionBatch,
    Task,
    View,
)
from vlrun.blocks.boxes import clip_to_image, decode_deltas, encode_deltas, iou, xywh_to_xyxy
from vlrun_rec.config import GroundingAccuracyConfig, RecConfig
from vlrun_rec.head import GroundingLogits, RegionGroundingHead
from vlrun_rec.metric import GroundingAccuracy

EPSILON = 1e-8  # keeps the division of rank targets by their sum finite; ROSITA, section 7


Corners = tuple[float, float, float, float]


class RecTask(Task[Referent]):
    """One pair per expression. Regions that overlap the referent share the probability in proportion to their IoU."""

    imported_head = "grounding_head"

    def __init__(self, config: RecConfig) -> None:
        self.config = config

    def build_head(self, backbone: Backbone) -> nn.Module:
        return RegionGroundingHead(
            backbone.hidden_size,
            regress_boxes=self.config.regress_boxes,
            score_padded_regions=self.config.score_padded_regions,
        )

    def collate(
        self, examples: Sequence[Example[Referent]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """Targets for P expressions with R regions, R as the backbone sees them.

        rank_targets, rank_weights: (P, R). The targets of a row sum to 1 over its *uncut* regions: those that the
        backbone cuts off keep their share, as in ROSITA's code. Weights are 1 for every region of an expression that
        has a region with enough overlap, else 0.
        delta_targets, delta_weights: (P, R, 4), (P, R). Weights are 1 for regions with enough overlap.
        boxes: (P, R, 4) pixels, xyxy. image_sizes: (P, 2), height and width.
        target_boxes: (P, 4) float64, xyxy, nan where the referent is hidden.
        """
        _check_image_sizes(examples, regions)
        target_boxes = np.stack([_corners(example) for example in examples])  # (P, 4)
        # The corners become float32 as in ROSITA's loader, so that an IoU at the threshold falls on the same side.
        rounded = target_boxes.astype(np.float32)[:, None]  # (P, 1, 4)
        overlap = np.where(regions.mask, iou(regions.boxes, rounded, self.config.iou_rule), 0.0)  # (P, R)
        positive = overlap >= self.config.iou_threshold
        # float32 before the division, as in ROSITA's loader: the last bit shows in a float64 comparison of whole runs
        rank_targets = np.where(positive, overlap, 0.0).astype(np.float32)
        rank_targets /= rank_targets.sum(axis=1, keepdims=True) + EPSILON
        learnable = positive.any(axis=1, keepdims=True)
        delta_targets = encode_deltas(regions.boxes, rounded)
        delta_targets = np.where((learnable & regions.mask)[..., None], delta_targets, 0.0)

        num_regions = encoding.region_mask.shape[1]
        per_region = {
            "rank_targets": rank_targets,
            "rank_weights": learnable & regions.mask,
            "delta_targets": delta_targets,
            "delta_weights": positive,
            "boxes": regions.boxes,
        }
        return {
            **{name: _fitted(values, num_regions) for name, values in per_region.items()},
            "image_sizes": torch.from_numpy(regions.sizes),
            "target_boxes": torch.from_numpy(target_boxes),
        }

    def loss(self, outputs: GroundingLogits, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``ranking``: KL divergence, one item per region (not per expression), as in ROSITA's code.
        ``box``: smooth L1, the mean of 4 coordinates, one item per region with enough overlap."""
        log_shares = F.log_softmax(outputs.scores, dim=-1)
        divergence = F.kl_div(log_shares, targets["rank_targets"].to(log_shares.dtype), reduction="none")  # (P, R)
        losses = {"ranking": (divergence * targets["rank_weights"]).sum()}
        if outputs.deltas is not None:
            delta_targets = targets["delta_targets"].to(outputs.deltas.dtype)
            error = F.smooth_l1_loss(outputs.deltas, delta_targets, reduction="none").mean(dim=-1)  # (P, R)
            losses["box"] = self.config.regression_weight * (error * targets["delta_weights"]).sum()
        return losses

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        counts = {"ranking": targets["rank_weights"].sum()}
        if self.config.regress_boxes:
            counts["box"] = targets["delta_weights"].sum()
        return counts

    def predict(self, outputs: GroundingLogits, batch: Batch) -> list[Prediction]:
        """Predicts the best region's box, refined and clipped to the image; ties go to the first region.

        Fields: ``box`` [x1, y1, x2, y2] in pixels; ``region``, its index; ``score``, its probability. Where the
        referent is known also ``iou``, ``best_region_iou`` (the best of all candidate boxes, before refinement), and
        the ``iou_rule`` of both.
        """
        scores = outputs.scores.double().numpy()  # (P, R)
        best = scores.argmax(axis=1)
        rows = np.arange(len(best))
        candidates = batch.targets["boxes"].double().numpy()  # (P, R, 4)
        boxes = _refined_boxes(outputs, batch, rows, best)

        targets = batch.targets["target_boxes"].numpy()  # (P, 4)
        rule = self.config.iou_rule
        overlap = iou(boxes, targets, rule)
        candidate_overlap = np.where(batch.encoding.region_mask.numpy(), iou(candidates, targets[:, None], rule), 0.0)
        has_target = ~np.isnan(targets).any(axis=1)
        return [
            Prediction(
                batch.ids[row],
                {
                    "box": boxes[row].tolist(),
                    "region": int(best[row]),
                    "score": _probability(scores[row], int(best[row])),
                    **(
                        {
                            "iou": float(overlap[row]),
                            "best_region_iou": float(candidate_overlap[row].max()),
                            "iou_rule": rule,
                        }
                        if has_target[row]
                        else {}
                    ),
                },
            )
            for row in rows
        ]

    def case(self, prediction: Prediction, example: Example[Referent]) -> Case:
        """An expression with the box that it means, and both boxes to look at."""
        case, box = super().case(prediction, example), _box_of(prediction)
        words, target = _box_in_words(box), example.target
        if target is None:
            return replace(case, predicted=words, views=(View(example.image_ids[0], predicted=box),))
        x, y, width, height = target.box
        wanted = (x, y, x + width, y + height)
        size = (target.image_width, target.image_height)
        overlap = 0.0 if box is None else float(iou(np.array(box), np.array(wanted), self.config.iou_rule))
        return replace(
            case,
            truth={"box": [*wanted]},
            predicted=f"{words}, IoU {overlap:.2f}",
            right=_box_in_words(wanted),
            credit=float(overlap >= self.config.iou_threshold),
            views=(View(example.image_ids[0], predicted=box, right=wanted, size=size),),
        )

    def choices(self, outputs: GroundingLogits, batch: Batch) -> list[Choice]:
        """The regions by their probability, each with its box, refined and clipped to the image."""
        real = np.flatnonzero(batch.encoding.region_mask[0].numpy())
        scores = outputs.scores.double().numpy()[0]  # (R,)
        order = real[np.argsort(-scores[real], kind="stable")]
        boxes = _refined_boxes(outputs, batch, np.zeros_like(order), order)
        return [
            Choice(f"region {region}", _probability(scores, region), (x1, y1, x2, y2))
            for region, (x1, y1, x2, y2) in zip(order.tolist(), boxes.tolist(), strict=True)
        ]

    def adapt_imported_head(
        self, tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        """Leaves out the layer that refines boxes where this run does not refine them."""
        if self.config.regress_boxes:
            return tensors, []
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("dense_reg.")}
        left = len(tensors) - len(kept)
        return kept, [f"grounding head: {left} tensors that refine boxes left out"] if left else []

    def metrics(self) -> list[Metric]:
        return [
            GroundingAccuracy(
                GroundingAccuracyConfig(
                    name="grounding-accuracy",
                    iou_rule=self.config.iou_rule,
                    iou_threshold=self.config.iou_threshold,
                    comparison=">=",
                ),
                box="best region, refined and clipped" if self.config.regress_boxes else "best region, as detected",
            )
        ]


def _refined_boxes(
    outputs: GroundingLogits, batch: Batch, rows: NDArray[np.int64], regions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The boxes (N, 4) of N regions, each of an expression in ``rows``: refined and clipped where they are refined."""
    boxes: NDArray[np.float64] = batch.targets["boxes"].double().numpy()[rows, regions]
    if outputs.deltas is None:
        return boxes
    heights, widths = batch.targets["image_sizes"].double().numpy()[rows].T
    return clip_to_image(decode_deltas(boxes, outputs.deltas.double().numpy()[rows, regions]), heights, widths)


def _box_of(prediction: Prediction) -> Corners | None:
    box = prediction.fields.get("box")
    return (box[0], box[1], box[2], box[3]) if isinstance(box, list) and len(box) == len("xyxy") else None


def _box_in_words(box: Corners | None) -> str:
    return "no box" if box is None else f"box {', '.join(f'{value:.0f}' for value in box)}"


def _corners(example: Example[Referent]) -> NDArray[np.float64]:
    return np.full(4, np.nan) if example.target is None else xywh_to_xyxy(example.target.box)


def _check_image_sizes(examples: Sequence[Example[Referent]], regions: RegionBatch) -> None:
    """Boxes of annotations and of regions must be in the same pixels."""
    problems = [
        f"image '{example.image_ids[0]}': annotated as {target.image_width} x {target.image_height} pixels, but its "
        f"region features were extracted from {width:g} x {height:g}; boxes of the two do not fit together"
        for example, (height, width) in zip(examples, regions.sizes, strict=True)
        if (target := example.target) and (target.image_height, target.image_width) != (height, width)
    ]
    if problems:
        raise DataError(problems)


def _fitted(values: NDArray[Any], num_regions: int) -> Tensor:
    """``values`` (P, any number, ...) cut or padded with zeros to ``num_regions``, float32."""
    fitted = np.zeros((values.shape[0], num_regions, *values.shape[2:]), np.float32)
    kept = min(num_regions, values.shape[1])
    fitted[:, :kept] = values[:, :kept]
    return torch.from_numpy(fitted)


def _probability(scores: NDArray[np.float64], index: int) -> float:
    """Softmax of ``scores`` (R,) at ``index``."""
    largest = scores.max()
    return float(np.exp(scores[index] - largest) / np.exp(scores - largest).sum())
