"""Two stores are compared by what is in them, whatever the order of regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vlrun.cli import main
from vlrun.errors import DataError
from vlrun.features.compare import compare_image, compare_stores
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store


def spread(number: int) -> np.ndarray:
    """Boxes that do not overlap."""
    left = np.arange(number, dtype=np.float32) * 40
    return np.stack([left, left + 10, left + 30, left + 60], axis=1)


def test_a_store_equals_itself_in_another_order(make_regions, tmp_path: Path) -> None:
    images = [make_regions(f"i{number}", 6, boxes=spread(6)) for number in range(4)]
    order = [3, 0, 5, 1, 4, 2]
    names = ("features", "boxes", "class_ids", "attribute_ids", "class_scores", "attribute_scores")
    turned = [
        make_regions(image.image_id, 6, **{name: getattr(image, name)[order] for name in names}) for image in images
    ]
    write_store(tmp_path / "one", images, dtype="float32")
    write_store(tmp_path / "two", turned, dtype="float32")
    found = compare_stores(RegionFeatureStore(tmp_path / "one"), RegionFeatureStore(tmp_path / "two"))
    assert (found.images, found.only_first, found.only_second, found.other_size) == (4, 0, 0, 0)
    assert (found.regions_first, found.regions_second, found.matched) == (24, 24, 24)
    assert found.matched_share == 1
    assert found.box_distance == found.difference == 0
    assert found.lowest_cosine == pytest.approx(1)
    assert found.differing_classes == found.differing_attributes == 0


def test_what_differs_is_counted(make_regions) -> None:
    first = make_regions("a", 4, boxes=spread(4), features=np.eye(4, 8, dtype=np.float32) * 2)
    boxes, features = first.boxes.copy(), first.features.copy()
    boxes[0] += 0.5  # still the same box
    boxes[1] += 25  # another one
    features[2] = features[3]  # a right angle
    features[0, 0] = 2.25
    second = make_regions(
        "a", 4, boxes=boxes, features=features, height=481, class_ids=first.class_ids + np.array([0, 0, 0, 1], np.int32)
    )
    found = compare_image(first, second)
    assert found.matched == 3
    assert found.share == 0.75
    assert found.box_distance == 0.5
    np.testing.assert_allclose(found.cosines, [1, 0, 1])
    assert found.difference == 2
    assert found.differing_classes == 1
    assert found.differing_attributes == 0
    assert not found.same_size


def test_each_box_is_matched_once_at_most(make_regions) -> None:
    one = np.array([[0, 0, 99, 99]], np.float32)
    two = np.array([[0, 0, 99, 97], [0, 0, 99, 99]], np.float32)
    found = compare_image(make_regions("a", 1, boxes=one), make_regions("a", 2, boxes=two))
    assert found.matched == 1
    assert found.box_distance == 0
    assert (
        compare_image(make_regions("a", 1, boxes=one), make_regions("a", 2, boxes=two[:1].repeat(2, 0)), 0.99).matched
        == 0
    )


def test_ids_that_one_store_lacks_are_not_counted(make_regions) -> None:
    first, second = make_regions("a", boxes=spread(5)), make_regions("a", boxes=spread(5), class_ids=None)
    assert compare_image(first, second).differing_classes is None
    assert compare_image(first, second).differing_attributes == 0


def test_boxes_without_area_and_features_of_zeros_equal_themselves(make_regions) -> None:
    boxes = np.array([[5, 5, 5, 5], [9, 9, 9, 20]], np.float32)
    image = make_regions("a", 2, boxes=boxes, features=np.zeros((2, 8), np.float32))
    found = compare_image(image, image)
    assert found.matched == 2
    assert found.cosines.tolist() == [1, 1]


def test_stores_that_cannot_be_compared(make_regions, tmp_path: Path) -> None:
    write_store(tmp_path / "one", [make_regions("a")])
    write_store(tmp_path / "other", [make_regions("b")])
    write_store(tmp_path / "wide", [make_regions("a", feature_width=9)])
    one, other, wide = (RegionFeatureStore(tmp_path / name) for name in ("one", "other", "wide"))
    with pytest.raises(DataError, match="share no image: one has a, the other b"):
        compare_stores(one, other)
    with pytest.raises(DataError, match=r"features of width 8, .* of width 9"):
        compare_stores(one, wide)


def test_images_of_which_nothing_matches(make_regions, tmp_path: Path, capsys) -> None:
    write_store(tmp_path / "one", [make_regions("a", boxes=spread(5))])
    write_store(tmp_path / "two", [make_regions("a", boxes=spread(5) + np.float32(20))])
    command = ["features", "compare", str(tmp_path / "one"), str(tmp_path / "two")]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["matched"] == 0
    assert found["mean_cosine"] is None
    assert found["worst"] == [["a", 0.0, None]]
    assert main(command) == 0
    assert capsys.readouterr().out.count("none to compare") == 2


def test_the_command_prints_a_summary(make_regions, tmp_path: Path, capsys) -> None:
    write_store(tmp_path / "one", [make_regions("a", boxes=spread(5)), make_regions("b")], extractor="this one")
    write_store(tmp_path / "two", [make_regions("a", boxes=spread(5)), make_regions("c")], extractor="that one")
    command = ["features", "compare", str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for text in ("1 in both; 1 and 1 in one alone", "5 and 5; 100.00% match", "0 of 5 differ", "this one", "that one"):
        assert text in shown
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matched_share"] == 1
