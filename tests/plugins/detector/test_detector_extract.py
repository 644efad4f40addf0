"""From a folder of photographs to a store, with small weights in the public layouts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlrun import FeatureOrigin, RegionFeatureStore
from vlrun.cli import main
from vlrun.features.origin import differences
from vlrun.plugins.manager import create_plugins
from vlrun_detector.config import BottomUpConfig
from vlrun_detector.detector import BottomUp

pytestmark = pytest.mark.golden


@pytest.fixture
def folder(vectors, tmp_path: Path) -> Path:
    """Three photographs."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = vectors("preprocess")[f"small/{number}/bgr"][..., ::-1]
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"photo_{number}.png")
    return folder


def extract(folder: Path, out: Path, weights: Path, *more: str, detector: str = "bottom-up") -> int:
    command = ["features", "extract", str(folder), str(out), "--detector", detector, "--weights", str(weights)]
    return main([*command, "device=cpu", "--dtype", "float32", *more])


def test_a_folder_becomes_a_store(folder: Path, weights, tmp_path: Path, capsys) -> None:
    assert extract(folder, tmp_path / "store", weights("caffe_model")) == 0
    store = RegionFeatureStore(tmp_path / "store")
    assert store.image_ids() == ["photo_0", "photo_1", "photo_2"]
    regions = store["photo_1"]
    assert (regions.height, regions.width) == (441, 320)
    assert regions.features.shape == (36, 256)
    assert regions.class_ids.shape == regions.attribute_ids.shape == (36,)
    assert (regions.class_scores > 0).all()
    assert (regions.attribute_scores > 0).all()
    assert regions.boxes.max() > 100
    assert main(["features", "verify", str(tmp_path / "store")]) == 0
    for text in ("caffe profile", "caffe_model.pth", "anchors caffe", "float32"):
        assert text in store.manifest.extractor
    assert re.fullmatch("sha256:[0-9a-f]{16}", store.manifest.extractor_weights)
    assert store.manifest.boxes == "36"


def test_a_tiny_picture_has_fewer_regions_in_a_store_of_36(folder: Path, weights, tmp_path: Path) -> None:
    Image.new("RGB", (17, 17), "red").save(folder / "tiny.png")
    assert extract(folder, tmp_path / "store", weights("caffe_model")) == 0
    store = RegionFeatureStore(tmp_path / "store")
    assert 0 < store.manifest.min_regions < 36
    assert (store.manifest.max_regions, store.manifest.boxes) == (36, "36")
    papers = create_plugins().weight_formats()["rosita"].features
    manifest = store.manifest
    for made in (FeatureOrigin(manifest.extractor, boxes=manifest.boxes), FeatureOrigin(manifest.extractor)):
        assert differences(made, (manifest.min_regions, manifest.max_regions), papers) == []


def test_bad_files_are_named_and_the_rest_goes_on(folder: Path, weights, tmp_path: Path, capsys) -> None:
    content = (folder / "photo_0.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "page.jpg").write_text("<html>")
    Image.new("RGB", (9, 9)).save(folder / "tiny.png")
    assert extract(folder, tmp_path / "store", weights("caffe_model")) == 5
    told = capsys.readouterr().err
    assert "3 of 6 pictures are not in it" in told
    assert "cut.png: damaged: " in told
    assert "page.jpg: no picture that can be read" in told
    assert "tiny.png: 9 x 9 pixels are too few or too narrow: a region has at least 16 x 16" in told
    assert len(RegionFeatureStore(tmp_path / "store")) == 3


def test_the_hf_detector_counts_boxes_and_classes_likewise(folder: Path, weights, tmp_path: Path, capsys) -> None:
    assert extract(folder, tmp_path / "caffe", weights("caffe_model"), "--boxes", "10-100") == 0
    assert extract(folder, tmp_path / "hf", weights("hf_model"), detector="bottom-up-hf") == 0
    caffe, hf = RegionFeatureStore(tmp_path / "caffe"), RegionFeatureStore(tmp_path / "hf")
    assert "hf profile" in hf.manifest.extractor
    assert [FeatureOrigin(store.manifest.extractor).name for store in (caffe, hf)] == ["bua-caffe", "hf-frcnn"]
    assert caffe.manifest.max_regions <= 100
    assert hf.manifest.max_regions == 36
    assert main(["features", "compare", str(tmp_path / "caffe"), str(tmp_path / "hf")]) == 0
    assert "regions" in capsys.readouterr().out


def test_a_store_of_another_pipeline_is_not_continued(folder: Path, weights, tmp_path: Path, capsys) -> None:
    assert extract(folder, tmp_path / "store", weights("caffe_model")) == 0
    assert extract(folder, tmp_path / "store", weights("caffe_model"), detector="bottom-up-hf") == 5
    assert extract(folder, tmp_path / "store", weights("caffe_model"), "--boxes", "10-100") == 5
    assert extract(folder, tmp_path / "store", weights("caffe_model"), "precision=bfloat16") == 5
    assert capsys.readouterr().err.count("exists and holds something else") == 3


@pytest.mark.slow
def test_processes_find_what_one_process_finds(folder: Path, weights, tmp_path: Path) -> None:
    """With as many threads in each, for sums in another order differ in the last bit."""
    threads = torch.get_num_threads()
    assert extract(folder, tmp_path / "one", weights("caffe_model")) == 0
    assert extract(folder, tmp_path / "two", weights("caffe_model"), "--processes", "2") == 0
    one, two = RegionFeatureStore(tmp_path / "one"), RegionFeatureStore(tmp_path / "two")
    for image_id in one:
        np.testing.assert_allclose(one[image_id].boxes, two[image_id].boxes, atol=0.01)
        np.testing.assert_allclose(one[image_id].features, two[image_id].features, atol=1e-3)
    assert torch.get_num_threads() == threads


def test_a_device_that_is_not_there(weights) -> None:
    from vlrun import ConfigError

    config = BottomUpConfig(name="bottom-up", weights=weights("caffe_model"), device="cuda:99")
    with pytest.raises(ConfigError, match="device=cuda:99 cannot be used here"):
        BottomUp.caffe(config)
