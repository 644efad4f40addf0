"""What region features of an image must fulfil; importers and ``verify`` check the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.interfaces.examples import RegionFeatures

BOX_TOLERANCE = 1.0
"""Pixels by which a box may leave its image: some writers count the last pixel twice."""


def find_problems(regions: RegionFeatures) -> list[str]:
    """Everything that is wrong with one image, in words; empty if nothing is."""
    return _shape_problems(regions) or [*_value_problems(regions), *_box_problems(regions)]


def _shape_problems(regions: RegionFeatures) -> list[str]:
    problems = []
    if regions.height < 1 or regions.width < 1:
        problems.append(f"image size {regions.height} x {regions.width} (height x width)")
    if regions.features.ndim != 2 or 0 in regions.features.shape:
        return [*problems, f"features of shape {regions.features.shape}, expected (regions, width)"]
    num_regions = len(regions.features)
    if regions.boxes.shape != (num_regions, 4):
        problems.append(f"boxes of shape {regions.boxes.shape} do not fit {num_regions} regions")
    for name in ("class_ids", "attribute_ids", "class_scores", "attribute_scores"):
        array = getattr(regions, name)
        if array is not None and array.shape != (num_regions,):
            problems.append(f"{name} of shape {array.shape} do not fit {num_regions} regions")
    return problems


def _value_problems(regions: RegionFeatures) -> list[str]:
    problems = []
    for name in ("features", "boxes", "class_scores", "attribute_scores"):
        array = getattr(regions, name)
        if array is None or _is_finite(array):
            continue
        if bad := int(np.count_nonzero(~np.isfinite(array))):
            problems.append(f"{bad} of {array.size} values of {name} are NaN or infinite")
    return problems


def _is_finite(array: NDArray[Any]) -> bool:
    """Whether all values are finite; False may also mean that it was not looked at in this quicker way."""
    if array.dtype != np.float32 or not array.size:
        return False
    return math.isfinite(array.min()) and math.isfinite(array.max())  # NaN is the least and the largest of all


def _box_problems(regions: RegionFeatures) -> list[str]:
    """Boxes that end before they begin, leave the image by more than ``BOX_TOLERANCE``, or are parts of it."""
    problems: list[str] = []
    boxes = regions.boxes
    if _are_inside(boxes, regions.width, regions.height):
        return problems
    if 0 < boxes.max(initial=0) <= 1.001 and min(regions.height, regions.width) > 2:
        problems.append(
            "all boxes lie between 0 and 1: they are divided by the image size, boxes in pixels are expected "
            "(`runner features build --normalised-boxes` multiplies them)"
        )
    inverted = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if inverted.size:
        problems.append(f"box {inverted[0]} {_box_text(boxes[inverted[0]])} ends before it begins")
    outside = np.flatnonzero(_leaves(boxes, regions.width, regions.height))
    if outside.size:
        problem = f"box {outside[0]} {_box_text(boxes[outside[0]])} leaves the image"
        problem += f" of height {regions.height} and width {regions.width}"
        if not _leaves(boxes, regions.height, regions.width).any():
            problem += "; with height and width exchanged all boxes would fit"
        problems.append(problem)
    return problems


def _are_inside(boxes: NDArray[np.float32], width: int, height: int) -> bool:
    """Whether nothing is wrong with the boxes, as nearly always; in fewer steps than it takes to tell what is."""
    ends = boxes.max(axis=0)
    return bool(
        boxes.min() >= -BOX_TOLERANCE
        and ends.max() > 1.001
        and max(ends[0], ends[2]) <= width + BOX_TOLERANCE
        and max(ends[1], ends[3]) <= height + BOX_TOLERANCE
        and (boxes[:, :2] <= boxes[:, 2:]).all()
    )


def _leaves(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.bool_]:
    limit = np.array([width, height, width, height], np.float32) + BOX_TOLERANCE
    leaves: NDArray[np.bool_] = np.any((boxes < -BOX_TOLERANCE) | (boxes > limit), axis=1)
    return leaves


def _box_text(box: NDArray[np.float32]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in box) + ")"
