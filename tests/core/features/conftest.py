"""Small stores and source files, made on the spot."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vlrun.features.writer import write_store
from vlrun.interfaces.examples import RegionFeatures

HEIGHT, WIDTH = 480, 640


@pytest.fixture
def make_regions() -> Callable[..., RegionFeatures]:
    """Makes random features of a picture of 480 rows and 640 columns."""

    def make(image_id: str, num_regions: int = 5, feature_width: int = 8, seed: int = 0, **changes) -> RegionFeatures:
        rng = np.random.default_rng([seed, *image_id.encode()])
        corners = rng.uniform(0, 1, (2, num_regions, 2)) * (WIDTH, HEIGHT)
        values = {
            "features": rng.normal(size=(num_regions, feature_width)).astype(np.float32),
            "boxes": np.concatenate([corners.min(0), corners.max(0)], axis=1).astype(np.float32),
            "height": HEIGHT,
            "width": WIDTH,
            "class_ids": rng.integers(0, 1600, num_regions).astype(np.int32),
            "attribute_ids": rng.integers(0, 400, num_regions).astype(np.int32),
            "class_scores": rng.uniform(size=num_regions).astype(np.float32),
            "attribute_scores": rng.uniform(size=num_regions).astype(np.float32),
        }
        return RegionFeatures(image_id, **{**values, **changes})

    return make


@pytest.fixture
def images(make_regions: Callable[..., RegionFeatures]) -> Sequence[RegionFeatures]:
    """Five images of two to four regions."""
    return [make_regions(f"COCO_val2014_{number:012d}", 2 + number % 3) for number in range(1, 6)]


@pytest.fixture
def store_path(tmp_path, make_regions) -> Path:
    """A store of twelve images with two to five regions."""
    path = tmp_path / "store"
    write_store(path, [make_regions(f"COCO_val2014_{i:012d}", 2 + i % 4) for i in range(12)], extractor="a test")
    return path


@pytest.fixture
def lxmert_row() -> Callable[[RegionFeatures], bytes]:
    """Writes an image as a row of LXMERT's TSV."""

    def row(regions: RegionFeatures) -> bytes:
        def text(array, kind):
            return base64.b64encode(np.ascontiguousarray(array, kind).tobytes())

        cells = [
            regions.image_id.encode(),
            b"%d" % regions.height,
            b"%d" % regions.width,
            text(regions.class_ids, "<i8"),
            text(regions.class_scores, "<f4"),
            text(regions.attribute_ids, "<i8"),
            text(regions.attribute_scores, "<f4"),
            b"%d" % len(regions.features),
            text(regions.boxes, "<f4"),
            text(regions.features, "<f4"),
        ]
        return b"\t".join(cells) + b"\n"

    return row


@pytest.fixture
def lxmert_file(tmp_path, make_regions, lxmert_row) -> Path:
    """An LXMERT TSV of ten images, ``image-0`` to ``image-9``."""
    path = tmp_path / "obj36.tsv"
    path.write_bytes(b"".join(lxmert_row(make_regions(f"image-{i}")) for i in range(10)))
    return path


@pytest.fixture
def rosita_folder(tmp_path, make_regions, lxmert_row) -> Path:
    """ROSITA's TSV folder of six images, ``image-0`` to ``image-5``."""
    folder = tmp_path / "imgfeats"
    folder.mkdir()
    rows = []
    for number in range(6):
        image_id, height, width, *detected, num_boxes, boxes, features = (
            lxmert_row(make_regions(f"image-{number}")).rstrip().split(b"\t")
        )
        rows.append(b"\t".join([image_id + b".jpg", features, height, width, num_boxes, boxes, *detected]) + b"\n")
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    (folder / "imgfeat.tsv").write_bytes(b"".join(rows))
    (folder / "imgfeat.lineidx").write_text("".join(f"{start}\n" for start in starts))
    (folder / "img_feat_offset_map.json").write_text(json.dumps({f"image-{number}.jpg": number for number in range(6)}))
    return folder
