"""Whether two stores say the same of the same images: regions are matched by their boxes, whatever their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.examples import RegionFeatures
from vlrun.interfaces.reporter import ProgressCallback

MATCH_OVERLAP = 0.9
_WORST = 5


@dataclass(frozen=True)
class ImageComparison:
    """Two sets of regions of one image.

    Attributes:
        first, second: regions in each store; matched: pairs of them.
        box_distance: largest distance of a corner coordinate, in pixels, over the matched.
        cosines: (matched,) of their features; difference: largest absolute one of a feature.
        differing_classes, differing_attributes: matched pairs with another id; None where a store has none.
        same_size: whether both give the picture the same height and width.
    """

    image_id: str
    first: int
    second: int
    matched: int
    box_distance: float
    cosines: NDArray[np.float64]
    difference: float
    differing_classes: int | None
    differing_attributes: int | None
    same_size: bool

    @property
    def share(self) -> float:
        """Of the regions, how many have a partner."""
        return 2 * self.matched / (self.first + self.second)

    @property
    def lowest_cosine(self) -> float | None:
        """Of the matched pairs; None where there are none."""
        return float(self.cosines.min()) if len(self.cosines) else None


@dataclass(frozen=True)
class Comparison:
    """All images that two stores share; fields as of one image, added up."""

    images: int
    only_first: int
    only_second: int
    other_size: int
    regions_first: int
    regions_second: int
    matched: int
    matched_share: float
    box_distance: float
    mean_cosine: float | None
    lowest_cosine: float | None
    difference: float
    differing_classes: int | None
    differing_attributes: int | None
    worst: tuple[tuple[str, float, float | None], ...]
    """(image, share of regions that match, lowest cosine) of the images that agree least."""


def compare_stores(
    first: RegionFeatureStore,
    second: RegionFeatureStore,
    overlap: float = MATCH_OVERLAP,
    progress: ProgressCallback = lambda what, done, total: None,
) -> Comparison:
    """Compares the images that are in both.

    Args:
        overlap: intersection over union from which two boxes can be the same; each must be the other's best.

    Raises:
        DataError: they share no image, or their features have different widths.
    """
    widths = [store.manifest.feature_width for store in (first, second)]
    if widths[0] != widths[1]:
        raise DataError(f"{first.path} has features of width {widths[0]}, {second.path} of width {widths[1]}")
    common = [image_id for image_id in first.image_ids() if image_id in second]
    if not common:
        raise DataError(
            f"{first.path} and {second.path} share no image: one has {first.image_ids()[0]}, the other "
            f"{second.image_ids()[0]}"
        )
    found = list(_compared(first, second, common, overlap, progress))
    cosines = np.concatenate([image.cosines for image in found])
    regions_first, regions_second = sum(image.first for image in found), sum(image.second for image in found)
    matched = sum(image.matched for image in found)
    ranked = sorted(found, key=lambda image: (image.share, image.cosines.min(initial=1.0)))
    return Comparison(
        images=len(found),
        only_first=len(first) - len(found),
        only_second=len(second) - len(found),
        other_size=sum(not image.same_size for image in found),
        regions_first=regions_first,
        regions_second=regions_second,
        matched=matched,
        matched_share=2 * matched / (regions_first + regions_second),
        box_distance=max(image.box_distance for image in found),
        mean_cosine=float(cosines.mean()) if len(cosines) else None,
        lowest_cosine=float(cosines.min()) if len(cosines) else None,
        difference=max(image.difference for image in found),
        differing_classes=_added([image.differing_classes for image in found]),
        differing_attributes=_added([image.differing_attributes for image in found]),
        worst=tuple((image.image_id, image.share, image.lowest_cosine) for image in ranked[:_WORST]),
    )


def _compared(
    first: RegionFeatureStore,
    second: RegionFeatureStore,
    common: list[str],
    overlap: float,
    progress: ProgressCallback,
) -> Iterator[ImageComparison]:
    for number, image_id in enumerate(common, 1):
        yield compare_image(first[image_id], second[image_id], overlap)
        progress("comparing images", number, len(common))


def compare_image(first: RegionFeatures, second: RegionFeatures, overlap: float = MATCH_OVERLAP) -> ImageComparison:
    """Matches the regions of one image and compares those that match."""
    rows, columns = _matches(_overlaps(first.boxes, second.boxes), overlap)
    ours, theirs = first.features[rows].astype(np.float64), second.features[columns].astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    # two vectors of zeros are the same
    same = (ours == theirs).all(axis=1)
    cosines = np.where(same, 1.0, (ours * theirs).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny))
    return ImageComparison(
        image_id=first.image_id,
        first=len(first.boxes),
        second=len(second.boxes),
        matched=len(rows),
        box_distance=float(np.abs(first.boxes[rows] - second.boxes[columns]).max(initial=0.0)),
        cosines=cosines,
        difference=float(np.abs(ours - theirs).max(initial=0.0)),
        differing_classes=_differing(first.class_ids, second.class_ids, rows, columns),
        differing_attributes=_differing(first.attribute_ids, second.attribute_ids, rows, columns),
        same_size=(first.height, first.width) == (second.height, second.width),
    )


def _overlaps(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """(M, N) intersection over union; sides count their last pixel, so that a box without area equals itself."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    shared = sides.clip(0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(axis=-1) for boxes in (a, b)]
    found: NDArray[np.float64] = shared / (areas[0] + areas[1] - shared)
    return found


def _matches(overlaps: NDArray[np.float64], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pairs of which each is the other's best, with enough overlap."""
    rows = np.arange(len(overlaps))
    columns = overlaps.argmax(axis=1)
    mutual = (overlaps.argmax(axis=0)[columns] == rows) & (overlaps[rows, columns] >= least)
    return rows[mutual], columns[mutual]


def _differing(first: Any, second: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> int | None:
    if first is None or second is None:
        return None
    return int((first[rows] != second[columns]).sum())


def _added(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
