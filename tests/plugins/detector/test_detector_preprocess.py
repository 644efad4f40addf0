"""From the bytes of a photograph to the input of the network, as the originals make it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.hf import HfProfile
from vlrun_detector.images import read_image

pytestmark = pytest.mark.golden

FILES, SMALL = range(3), range(3)


@pytest.fixture(scope="module")
def given(vectors) -> dict[str, np.ndarray]:
    return vectors("preprocess")


@pytest.fixture(params=FILES)
def photograph(request, given, samples: Path) -> tuple[str, torch.Tensor]:
    """(key of its vectors, pixels)"""
    key = f"file/{request.param}"
    return key, read_image(samples / "images" / "coco_val2014" / str(given[f"{key}/name"]))


def test_a_photograph_is_decoded_to_the_same_bytes(photograph, given) -> None:
    key, pixels = photograph
    bgr = pixels.numpy()[..., ::-1]
    assert np.array_equal(bgr.astype(np.int64).sum((0, 1)), given[f"{key}/bgr_sum"])
    assert np.array_equal(bgr[::37, ::41], given[f"{key}/bgr_grid"])


def test_the_caffe_input_of_a_photograph(photograph, given) -> None:
    key, pixels = photograph
    made = CaffeProfile().prepare(pixels)
    assert [made.height, made.width] == given[f"{key}/caffe_shape"].tolist()
    assert made.scale_y == made.scale_x == float(given[f"{key}/caffe_scale"])
    np.testing.assert_allclose(made.pixels[0, :, ::23, ::29], given[f"{key}/caffe_grid"], rtol=0, atol=0.02)


def test_the_hf_input_of_a_photograph(photograph, given) -> None:
    key, pixels = photograph
    made = HfProfile().prepare(pixels)
    assert [made.height, made.width] == given[f"{key}/hf_shape"].tolist()
    scales = [1 / made.scale_y, 1 / made.scale_x]
    np.testing.assert_allclose(scales, given[f"{key}/hf_scales_yx"], rtol=1e-6)
    np.testing.assert_allclose(made.pixels[0, :, ::23, ::29], given[f"{key}/hf_grid"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("number", SMALL)
def test_the_inputs_of_small_pictures(number: int, given) -> None:
    short, long = given["resize_short_long"].tolist()
    pixels = torch.from_numpy(given[f"small/{number}/bgr"][..., ::-1].copy())
    caffe = CaffeProfile(short=short, long=long).prepare(pixels)
    assert [caffe.height, caffe.width] == given[f"small/{number}/caffe_shape"].tolist()
    assert caffe.scale_y == float(given[f"small/{number}/caffe_scale"])
    np.testing.assert_allclose(caffe.pixels[0, :, ::7, ::5], given[f"small/{number}/caffe_grid"], rtol=0, atol=0.05)
    hf = HfProfile(short=short, long=long).prepare(pixels)
    assert [hf.height, hf.width] == given[f"small/{number}/hf_shape"].tolist()
    np.testing.assert_allclose(hf.pixels[0, :, ::7, ::5], given[f"small/{number}/hf_grid"], rtol=0, atol=1e-3)


def test_the_sizes_of_inputs(given) -> None:
    for height, width, *rest in given["shapes"]:
        pixels = torch.zeros(int(height), int(width), 3, dtype=torch.uint8)
        caffe, hf = CaffeProfile().prepare(pixels), HfProfile().prepare(pixels)
        assert [caffe.height, caffe.width, caffe.scale_y] == rest[:3]
        assert [hf.height, hf.width] == rest[3:5]
        np.testing.assert_allclose([1 / hf.scale_y, 1 / hf.scale_x], rest[5:], rtol=1e-6)
