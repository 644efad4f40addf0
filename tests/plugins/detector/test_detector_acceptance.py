"""With the real weights: six photographs against ROSITA's own features. VLRUN_DETECTOR_WEIGHTS names the weights.

They are those for 36 boxes: runner weights import --from bottom-up-caffe bua-caffe-frcn-r101-k36.pth FILE, or from the
original caffemodel.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlrun import RegionFeatureStore
from vlrun.cli import main
from vlrun.features.compare import compare_stores

PIXELS, FEATURES, MATCHED = 0.1, 0.01, 0.95


def test_the_photographs_of_rosita_give_its_features(samples: Path, tmp_path: Path) -> None:
    weights = os.environ.get("VLRUN_DETECTOR_WEIGHTS")
    if not weights:
        pytest.skip("VLRUN_DETECTOR_WEIGHTS names no imported weights of bottom-up attention for 36 boxes")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    features, pictures = samples / "features" / "rosita_demo_npz", samples / "images" / "coco_val2014"
    assert main(["features", "build", str(features), str(theirs), "--dtype", "float32"]) == 0
    extract = ["features", "extract", str(pictures), str(ours), "--detector", "bottom-up", "--weights", weights]
    assert main([*extract, "--dtype", "float32"]) == 0
    found = compare_stores(RegionFeatureStore(theirs), RegionFeatureStore(ours))
    assert found.images == len(list(pictures.glob("*.jpg")))
    assert found.other_size == 0
    assert found.matched_share >= MATCHED, found
    assert found.box_distance <= PIXELS, found
    assert found.difference <= FEATURES, found
