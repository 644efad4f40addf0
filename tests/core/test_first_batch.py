"""The first batch is looked at: inputs that teach nothing are named before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlrun.data import first_batch
from vlrun.data.first_batch import batch_problems, shared_memory_problem
from vlrun.interfaces.examples import RegionBatch
from vlrun.interfaces.tensors import Batch, Encoding
from vlrun.testing import make_regions

IDS = ("example-a", "example-b", "example-c")


def encoding(regions: RegionBatch) -> Encoding:
    return Encoding(
        token_ids=torch.ones(3, 4, dtype=torch.int64),
        text_mask=torch.ones(3, 4, dtype=torch.bool),
        region_features=torch.from_numpy(regions.features),
        boxes=torch.from_numpy(regions.boxes),
        region_mask=torch.from_numpy(regions.mask),
    )


def problems(regions: RegionBatch, change: Callable[[Encoding], Encoding] = lambda made: made) -> list[str]:
    batch = Batch(IDS, change(encoding(regions)), {})
    return batch_problems(IDS, ["some text"] * 3, regions, batch)


@pytest.fixture
def regions() -> RegionBatch:
    return make_regions(["image-a", "image-b", "image-c"], feature_size=6)


def test_a_good_batch_has_no_problems(regions: RegionBatch) -> None:
    assert problems(regions) == []


def spoil_features(regions: RegionBatch) -> None:
    regions.features[1, 0, 0] = np.nan


def equal_features(regions: RegionBatch) -> None:
    regions.features[1] = 0.5


def zero_boxes(regions: RegionBatch) -> None:
    regions.boxes[1] = 0.0


def far_boxes(regions: RegionBatch) -> None:
    regions.boxes[1, 0] = (0, 0, 700, 100)


def swapped_corners(regions: RegionBatch) -> None:
    regions.boxes[1, 0] = (200, 10, 100, 50)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_features, "region features are NaN or infinite: image-b"),
        (equal_features, "region features are all equal: image-b"),
        (zero_boxes, "boxes are all equal: image-b"),
        (far_boxes, "boxes lie outside their image: image-b"),
        (swapped_corners, "boxes lie outside their image: image-b"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_regions_are_named(regions: RegionBatch, spoil: Callable[[RegionBatch], None], expected: str) -> None:
    spoil(regions)
    assert problems(regions) == [expected]


def test_padding_may_hold_anything(regions: RegionBatch) -> None:
    regions.boxes[~regions.mask] = 1e6
    assert problems(regions) == []


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("region_mask", "there are no regions (empty region mask): image-b"),
        ("text_mask", "the text is empty or all padding: example-b"),
    ],
)
def test_empty_masks_are_named(regions: RegionBatch, mask: str, expected: str) -> None:
    def empty(made: Encoding) -> Encoding:
        changed = getattr(made, mask).clone()
        changed[1] = False
        return replace(made, **{mask: changed})

    assert problems(regions, empty) == [expected]


def test_a_batch_without_any_text_is_a_problem_and_a_single_empty_text_is_not(regions: RegionBatch) -> None:
    batch = Batch(IDS, encoding(regions), {})
    assert batch_problems(IDS, ["", "a word", ""], regions, batch) == []
    assert "example-a, example-b, example-c" in batch_problems(IDS, ["", " ", ""], regions, batch)[0]


def test_too_little_shared_memory_says_what_to_change(
    regions: RegionBatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(first_batch, "_SHARED_MEMORY", tmp_path)
    batch = Batch(IDS, encoding(regions), {})
    assert shared_memory_problem(batch, workers=2) is None
    assert shared_memory_problem(batch, workers=0) is None
    problem = shared_memory_problem(batch, workers=10**9)
    assert problem is not None
    of_all = shared_memory_problem(batch, workers=10**8, processes=10)  # they share it
    assert of_all is not None
    assert "1000000000 workers" in of_all
    assert "Lower train.workers or train.batch_size" in problem
