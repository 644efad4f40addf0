"""What tests of importers share: building a store of a source, or having it refused, and comparing what came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vlrun import RegionFeatures, RegionFeatureStore
from vlrun.errors import DataError
from vlrun.features.build import build_store, detect_format
from vlrun.plugins.builtin import vlrun_feature_formats

FORMATS = {found.name: found for found in vlrun_feature_formats()}
Images = Sequence[RegionFeatures]


def built(source: Path, name: str) -> RegionFeatureStore:
    """The store of a source, which must be recognised as ``name``."""
    assert detect_format([source], FORMATS).name == name
    out = source.parent / f"{source.name}.store"
    return RegionFeatureStore(build_store([source], out, FORMATS[name], dtype="float32").path)


def problems(source: Path, name: str) -> str:
    out = source.parent / "refused.store"
    with pytest.raises(DataError) as caught:
        build_store([source], out, FORMATS[name])
    assert not out.exists()
    return "\n".join(caught.value.problems)


def assert_equal(store: RegionFeatureStore, images: Images, tolerance: float = 0, boxes: float = 0) -> None:
    assert store.image_ids() == sorted(regions.image_id for regions in images)
    for regions in images:
        found = store[regions.image_id]
        np.testing.assert_allclose(found.features, regions.features, atol=tolerance)
        np.testing.assert_allclose(found.boxes, regions.boxes, atol=boxes)
        assert (found.height, found.width) == (regions.height, regions.width)


def assert_detected(store: RegionFeatureStore, images: Images, *names: str, tolerance: float = 0) -> None:
    """Whether the store has classes, attributes and scores: those in ``names``, or all four, and no others."""
    for regions in images:
        found = store[regions.image_id]
        for name in ("class_ids", "attribute_ids", "class_scores", "attribute_scores"):
            if names and name not in names:
                assert getattr(found, name) is None, name
            else:
                np.testing.assert_allclose(getattr(found, name), getattr(regions, name), atol=tolerance)
