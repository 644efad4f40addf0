"""Region features: from the scene alone, useful, and not too easy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlrun.blocks.boxes import iou
from vlrun.features.build import build_store
from vlrun.features.checks import find_problems
from vlrun.features.store import RegionFeatureStore
from vlrun.plugins.builtin import vlrun_feature_formats
from vlrun_demo import regions
from vlrun_demo.feature_files import write_features
from vlrun_demo.images import Image
from vlrun_demo.provider import DemoWorld
from vlrun_demo.regions import region_features
from vlrun_demo.scene import Scene, Thing
from vlrun_demo.world import images

FORMATS = {found.name: found for found in vlrun_feature_formats()}


def best_overlaps(split: str) -> np.ndarray:
    """(things, regions) IoU of each candidate box with each thing, in crowded images of a split."""
    scenes = [image.scene for image in images() if image.split == split]
    boxes = [region_features(scene, "image").boxes for scene in scenes for _ in scene.things]
    targets = np.array([[thing.box] for scene in scenes for thing in scene.things], np.float32)
    return iou(np.array(boxes), targets, "plus_one")


def test_features_are_believable(scenes: list[Scene]) -> None:
    for scene in scenes:
        found = region_features(scene, "image")
        assert find_problems(found) == []
        assert found.features.shape == (regions.NUM_REGIONS, regions.FEATURE_SIZE)
        assert found.boxes.max(axis=0)[2] < scene.width  # real boxes end short of the border
        assert found.boxes.max(axis=0)[3] < scene.height
        assert (found.features >= 0).all()


def test_features_depend_on_the_scene_alone(scenes: list[Scene]) -> None:
    """No text is given, and nothing random but what derives from the image id."""
    first = [region_features(scene, "image").features for scene in scenes]
    np.random.default_rng(0).random(10)
    again = [region_features(scene, "image").features for scene in reversed(scenes)][::-1]

    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert list(inspect.signature(region_features).parameters) == ["scene", "image_id"]
    source = inspect.getsource(regions)
    assert "expressions" not in source
    assert "official" not in source


def test_a_feature_shows_what_is_in_its_box(make_thing: Callable[..., Thing]) -> None:
    """Changing one thing changes the features of boxes that hold it, and no others."""
    things = tuple(make_thing(x, y) for x in (80, 320, 560) for y in (80, 400))
    scene = Scene(1, 640, 480, "white", things)
    painted = replace(scene, things=(replace(things[0], colour="blue"), *things[1:]))
    before, after = region_features(scene, "image"), region_features(painted, "image")
    x1, y1, x2, y2 = things[0].box
    left, top, right, bottom = before.boxes.T
    holds = (left < x2) & (right > x1) & (top < y2) & (bottom > y1)

    assert np.array_equal(before.boxes, after.boxes)
    assert holds.any()
    assert not holds.all()
    assert ((before.features != after.features).any(axis=1) == holds).all()


def test_the_same_box_content_looks_alike_and_others_do_not(make_thing: Callable[..., Thing]) -> None:
    def mean_feature(colour: str) -> np.ndarray:
        things = tuple(make_thing(x, 240, colour=colour) for x in (80, 240, 400, 560))
        found = [region_features(Scene(number, 640, 480, "white", things), "image") for number in range(40)]
        return np.mean([one.features[one.class_scores > 0.85].mean(axis=0) for one in found], axis=0)

    red, blue = mean_feature("red"), mean_feature("blue")

    assert np.abs(red - blue).mean() > 0.3 * red.mean()
    assert np.abs(red - mean_feature("red")).mean() < 1e-6


@pytest.mark.parametrize("split", ["testA", "testB"])
def test_candidate_boxes_bound_the_accuracy_between_90_and_100_percent(split: str) -> None:
    overlaps = best_overlaps(split)

    assert 0.9 < (overlaps.max(axis=1) >= 0.5).mean() < 1.0


def test_boxes_are_near_but_not_exact() -> None:
    best = best_overlaps("val").max(axis=1)

    assert 0.7 < np.median(best) < 0.95
    assert best.max() < 0.999


@pytest.mark.parametrize("split", ["testA", "testB"])
def test_a_random_box_is_right_less_than_one_time_in_five(split: str) -> None:
    overlaps = best_overlaps(split)

    assert (overlaps >= 0.5).mean() < 0.15


def test_the_position_among_the_boxes_says_nothing() -> None:
    overlaps = best_overlaps("val")
    counts = np.bincount(overlaps.argmax(axis=1), minlength=regions.NUM_REGIONS)

    assert counts.min() > 0.6 * counts.mean()
    assert counts.max() < 1.4 * counts.mean()


def test_detector_words_are_mostly_right(scenes: list[Scene]) -> None:
    right = []
    for scene in scenes:
        found = region_features(scene, "image")
        boxes = np.array([thing.box for thing in scene.things], np.float32)
        overlaps = iou(found.boxes[:, None], boxes[None], "continuous")
        for region in np.flatnonzero(overlaps.max(axis=1) > 0.7):
            thing = scene.things[int(overlaps[region].argmax())]
            assert found.class_ids is not None
            right.append(DemoWorld.class_names[found.class_ids[region]] == thing.kind)

    assert 0.85 < np.mean(right) < 1.0


def test_the_file_is_read_by_the_importer_it_names(folder: Path, some_images: list[Image]) -> None:
    provider = DemoWorld()
    write_features(folder, some_images)
    built = build_store([folder], folder / "store", FORMATS[provider.feature_format])
    store = RegionFeatureStore(folder / "store")

    assert FORMATS[provider.feature_format].recognises(folder)
    assert built.manifest.count == len(some_images) == len(store)
    assert built.manifest.feature_width == provider.region_feature_size == regions.FEATURE_SIZE
    assert built.manifest.min_regions == built.manifest.max_regions == provider.num_regions == regions.NUM_REGIONS
    image = some_images[7]
    wanted = region_features(image.scene, image.id)
    found = store[image.id]
    assert (found.height, found.width) == (wanted.height, wanted.width)
    np.testing.assert_allclose(found.features, wanted.features, atol=0.01)
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)
