from __future__ import annotations

import re

from vlrun import RegionFeatureStore
from vlrun.data.coverage import check_coverage


def test_complete_coverage_counts_distinct_images(store_path):
    store = RegionFeatureStore(store_path)
    ids = store.image_ids()
    coverage = check_coverage({"train": ids + ids, "testA": iter(ids[:2])}, store)
    assert coverage.is_complete
    assert coverage.missing == frozenset()
    assert [re.split(r"\s{2,}", line.strip()) for line in coverage.table()] == [
        ["split", "images needed", "found", "missing"],
        ["-----", "-------------", "-----", "-------"],
        ["train", "12", "12", "0"],
        ["testA", "2", "2", "0"],
    ]


def test_missing_images_are_counted_per_split_and_five_are_named(store_path):
    store = RegionFeatureStore(store_path)
    absent = [f"flickr-{i}" for i in range(7)]
    coverage = check_coverage({"train": store.image_ids(), "val": [*absent, store.image_ids()[0]]}, store)
    assert not coverage.is_complete
    assert coverage.missing == frozenset(absent)
    text = str(coverage.error())
    assert text.startswith(f"{store_path} (12 images) lacks 7 images that the data need:\n")
    assert re.search(
        r"val +8 +1 +7\n +val: missing flickr-0, flickr-1, flickr-2, flickr-3, flickr-4, \.\.\. and 2 more$", text
    )


def test_ids_written_differently_are_told_apart_from_absent_ones(store_path):
    coverage = check_coverage({"val": ["3", "4"]}, RegionFeatureStore(store_path))
    assert coverage.error().problems[-1] == (
        "the store has 'COCO_val2014_000000000003': the same image as '3'? Then the ids are written differently."
    )
