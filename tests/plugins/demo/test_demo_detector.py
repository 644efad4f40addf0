"""The detector of the demo world finds and names what pictures show that it has not learned from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlrun import CheckpointError, DataError, RegionFeatures, canonical_image_id
from vlrun.blocks.boxes import pairwise_iou
from vlrun.cli import main
from vlrun_demo.detector import DemoDetector, load_network
from vlrun_demo.detector_config import WEIGHTS, DemoDetectorConfig
from vlrun_demo.detector_training import train
from vlrun_demo.picture import draw
from vlrun_demo.regions import FEATURE_SIZE, NUM_REGIONS
from vlrun_demo.scene import COLOURS, KINDS, Scene
from vlrun_demo.world import COCO, DETECTOR, IMAGE_SETS, VQA, images

pytestmark = pytest.mark.usefixtures("one_thread")

_PICTURES = 40  # of what is held out


@pytest.fixture(scope="module")
def detector() -> DemoDetector:
    return DemoDetector(DemoDetectorConfig(name="demo-world"))


@pytest.fixture(scope="module")
def found(detector: DemoDetector, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scene, RegionFeatures]]:
    """Scenes of held-out pictures and what the detector found in them: of its own kind, crowded ones, sparse ones."""
    held_out = [image for image in images(DETECTOR) if image.split == "val"]
    tests = [image for image in images(COCO) if image.split.startswith("test")] + images(VQA)[-80:]
    folder = tmp_path_factory.mktemp("pictures")
    return [(image.scene, seen(detector, image.scene, folder)) for image in (held_out + tests)[:: 240 // _PICTURES]]


def seen(detector: DemoDetector, scene: Scene, folder: Path, **options: Any) -> RegionFeatures:
    file = folder / f"{scene.image_id}.png"
    draw(scene).save(file, **options)
    return detector.detect("image", detector.read(file))


def best_regions(scene: Scene, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each thing: how well its best box overlaps, and which one that is."""
    overlaps = pairwise_iou([thing.box for thing in scene.things], boxes, "continuous")
    return overlaps.max(axis=1), overlaps.argmax(axis=1)


def test_things_are_found_and_named_far_above_chance(
    found: list[tuple[Scene, RegionFeatures]], record_property: Any
) -> None:
    hits, by_chance, kinds, colours = [], [], [], []
    told: list[tuple[str, str]] = []
    for number, (scene, regions) in enumerate(found):
        overlap, best = best_regions(scene, regions.boxes)
        hits += list(overlap > 0.5)
        elsewhere = found[number - 1][1]  # as many boxes of the same kind, of another picture
        ratio = np.array([scene.width / elsewhere.width, scene.height / elsewhere.height] * 2)
        by_chance += list(best_regions(scene, elsewhere.boxes * ratio)[0] > 0.5)
        for thing, region, is_hit in zip(scene.things, best, overlap > 0.5, strict=True):
            if is_hit:
                told.append((thing.kind, thing.colour))
                kinds.append(KINDS[regions.class_ids[region]] == thing.kind)
                colours.append(COLOURS[regions.attribute_ids[region]] == thing.colour)
    commonest = [Counter(column).most_common(1)[0][1] / len(told) for column in zip(*told, strict=True)]
    figures = {
        "things": len(hits),
        "recall at IoU > 0.5": np.mean(hits),
        "by boxes of another picture": np.mean(by_chance),
        "kinds right": np.mean(kinds),
        "the commonest kind": commonest[0],
        "colours right": np.mean(colours),
        "the commonest colour": commonest[1],
    }
    print({name: round(float(value), 3) for name, value in figures.items()})
    for name, value in figures.items():
        record_property(name, float(value))
    assert len(hits) > 100
    assert figures["recall at IoU > 0.5"] > 0.95
    assert figures["by boxes of another picture"] < 0.3
    assert figures["kinds right"] > 0.9 > 0.4 > commonest[0]
    assert figures["colours right"] > 0.9 > 0.4 > commonest[1]


def test_what_it_gives_is_what_a_detector_gives(found: list[tuple[Scene, RegionFeatures]]) -> None:
    for scene, regions in found:
        assert (regions.height, regions.width) == (scene.height, scene.width)
        assert regions.features.shape == (NUM_REGIONS, FEATURE_SIZE)
        assert (regions.features >= 0).all()
        assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
        assert regions.boxes.min() >= 0
        assert (regions.boxes.max(axis=0) <= [scene.width, scene.height] * 2).all()
        assert (np.diff(regions.class_scores) <= 0).all()
        assert regions.attribute_scores.shape == regions.attribute_ids.shape == (NUM_REGIONS,)


def test_a_sure_region_counts_and_others_fill_up(found: list[tuple[Scene, RegionFeatures]], tmp_path: Path) -> None:
    detector = DemoDetector(DemoDetectorConfig(name="demo-world", boxes="2-20"))
    for scene, _ in found[:4]:
        regions = seen(detector, scene, tmp_path)
        assert len(scene.things) <= len(regions.boxes) <= 2 * len(scene.things) + 2
    assert detector.boxes == "2-20"


def test_a_larger_copy_shows_the_same(detector: DemoDetector, tmp_path: Path) -> None:
    scene = next(image for image in images(DETECTOR) if image.split == "val").scene
    regions = seen(detector, scene, tmp_path)
    picture = draw(scene)
    picture.resize((2 * scene.width, 2 * scene.height), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    larger = detector.detect("large", detector.read(tmp_path / "large.png"))
    overlap, best = best_regions(scene, regions.boxes)
    other_overlap, other = best_regions(scene, larger.boxes / 2)
    np.testing.assert_allclose(other_overlap, overlap, atol=0.05)
    assert (larger.class_ids[other] == regions.class_ids[best]).all()
    again = seen(detector, scene, tmp_path)
    assert np.array_equal(again.features, regions.features)


def test_tiny_and_bad_pictures(detector: DemoDetector, tmp_path: Path) -> None:
    Image.new("RGB", (7, 300)).save(tmp_path / "narrow.png")
    with pytest.raises(DataError, match=r"^7 x 300 pixels are too few or too narrow$"):
        detector.read(tmp_path / "narrow.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"^no picture that can be read"):
        detector.read(tmp_path / "text.png")
    Image.new("L", (20, 20)).save(tmp_path / "tiny.png")
    assert len(detector.detect("tiny", detector.read(tmp_path / "tiny.png")).boxes) > 0


@pytest.mark.parametrize("image_set", IMAGE_SETS)
def test_a_picture_is_called_as_its_features_are(image_set: str) -> None:
    for image in images(image_set)[::50]:
        assert canonical_image_id(image.file_name) == canonical_image_id(image.id)


def test_the_weights_are_small_and_others_are_refused(tmp_path: Path) -> None:
    assert WEIGHTS.stat().st_size < 1.5e6
    network, digest = load_network(WEIGHTS)
    assert len(digest) == 64
    assert 0 < network.loudness < 10
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    for name in ("other.safetensors", "detector.safetensors"):  # a name of ours does not lead to the plugin's folder
        with pytest.raises(CheckpointError, match=rf"{tmp_path}/{name}: no weights of the demo's detector"):
            DemoDetector(DemoDetectorConfig(name="demo-world", weights=tmp_path / name))


def test_training_is_the_same_each_time() -> None:
    chosen = [image for image in images(DETECTOR) if image.split == "train"][:4]
    first, second = (train(chosen, epochs=1).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_pictures_become_a_store_on_the_command_line(
    detector: DemoDetector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = images(DETECTOR)[-1].scene
    (tmp_path / "pictures").mkdir()
    draw(scene).save(tmp_path / "pictures" / "one.png")
    store = tmp_path / "store"
    command = ["features", "extract", str(tmp_path / "pictures"), str(store), "--detector", "demo-world"]
    assert main(command) == 0
    assert "1 images of 12 regions" in capsys.readouterr().out
    assert main(["features", "inspect", str(store), "--json"]) == 0
    assert detector.describe() in capsys.readouterr().out
