"""Texts and regions reach the network as the authors' loaders would have made them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vlrun import ConfigError, DataError, Encoding, Pair, RegionBatch, canonical_image_id
from vlrun.blocks.wordpiece import WordPiece
from vlrun_rosita.model import Rosita
from vlrun_rosita.text import RositaPairEncoder, clean

FEATURES = "imgfeats/mscoco_bua_r101_fix36/npz_files"


@pytest.fixture
def mini(golden: Path) -> Path:
    return golden / "rosita" / "mini"


@pytest.fixture
def loaders(golden: Path) -> dict[str, Any]:
    return dict(np.load(golden / "rosita" / "loaders.npz"))


def region_batch(counts: list[int], width: int = 6, dtype: Any = np.float16) -> RegionBatch:
    """Images of 200 x 100 pixels (width x height) with that many regions."""
    rng = np.random.default_rng(0)
    most = max(counts)
    mask = np.arange(most) < np.array(counts)[:, None]
    corners = np.sort(rng.uniform(0, 100, (len(counts), most, 2, 2)), axis=2).reshape(len(counts), most, 4)
    return RegionBatch(
        tuple(f"image{index}" for index in range(len(counts))),
        (rng.random((len(counts), most, width)) * mask[..., None]).astype(dtype),
        (corners * mask[..., None]).astype(np.float32),
        mask,
        np.tile(np.float32([100, 200]), (len(counts), 1)),
    )


def stored_regions(folder: Path, files: list[str]) -> RegionBatch:
    stored = [np.load(folder / f"{file}.npz") for file in files]
    most = max(len(record["boxes"]) for record in stored)

    def padded(rows: NDArray[Any]) -> NDArray[Any]:
        return np.pad(rows, ((0, most - len(rows)), (0, 0)))

    return RegionBatch(
        tuple(canonical_image_id(file) for file in files),
        np.stack([padded(record["x"]) for record in stored]),
        np.stack([padded(record["boxes"]) for record in stored]),
        np.stack([np.arange(most) < len(record["boxes"]) for record in stored]),
        np.float32([[record["image_h"], record["image_w"]] for record in stored]),
    )


def splits_of(loaders: dict[str, Any]) -> list[str]:
    """``task/split`` of all splits that the original loaded."""
    found = [name.removesuffix("/text_ids") for name in loaders if name.endswith("/text_ids")]
    assert found
    return found


def split_records(mini: Path, task: str, split: str) -> list[dict[str, Any]]:
    """The annotations behind a split of loaders.npz."""
    name = {"vqa": "vqa-vqav2", "rec": "rec-refcoco", "itr": "itr-coco"}[task]
    path = mini / "annotations" / name / f"{name.replace('-', '_')}_annotations.json"
    splits = {("vqa", "train"): ["train", "val"], ("vqa", "val"): ["minival"]}.get((task, split), [split])
    content = json.loads(path.read_text())
    return [record for each in splits for record in content[each]]


def mini_encoder(mini: Path, loaders: dict[str, Any], name: str) -> RositaPairEncoder:
    num_regions, feature_size = loaders[f"{name}/imgfeat"].shape[1:]
    return RositaPairEncoder(
        WordPiece(mini / "vocab.txt"), loaders[f"{name}/text_ids"].shape[1], num_regions, feature_size
    )


def encode(encoder: RositaPairEncoder, mini: Path, texts: list[str], files: list[str]) -> Encoding:
    pairs = [Pair(text, canonical_image_id(file)) for text, file in zip(texts, files, strict=True)]
    return encoder(pairs, stored_regions(mini / FEATURES, files))


@pytest.mark.golden
def test_texts_are_cleaned_as_in_the_original(golden: Path) -> None:
    items = json.loads((golden / "rosita" / "text.json").read_text())["items"]

    assert [clean(item["text"]) for item in items] == [item["cleaned"] for item in items]


@pytest.mark.golden
def test_texts_of_the_mini_files_equal_the_original_loaders(mini: Path, loaders: dict[str, Any]) -> None:
    for name in splits_of(loaders):
        records = split_records(mini, *name.split("/"))
        theirs, their_mask = loaders[f"{name}/text_ids"], loaders[f"{name}/text_mask"]

        ours = encode(
            mini_encoder(mini, loaders, name), mini, [r["text"] for r in records], [r["img_file"] for r in records]
        )

        missing = theirs.shape[1] - ours.token_ids.shape[1]
        assert torch.nn.functional.pad(ours.token_ids, (0, missing)).tolist() == theirs.tolist(), name
        assert torch.nn.functional.pad(ours.text_mask, (0, missing)).tolist() == their_mask.tolist(), name


@pytest.mark.golden
def test_regions_of_the_mini_files_equal_the_original_loaders(mini: Path, loaders: dict[str, Any]) -> None:
    for name in splits_of(loaders):
        files = [record["img_file"] for record in split_records(mini, *name.split("/"))]
        if name.startswith("itr"):  # these hold one row per image
            files = list(dict.fromkeys(files))

        ours = encode(mini_encoder(mini, loaders, name), mini, ["" for _ in files], files)

        assert ours.region_mask.tolist() == loaders[f"{name}/imgfeat_mask"].tolist(), name
        assert np.array_equal(ours.region_features.numpy(), loaders[f"{name}/imgfeat"]), name
        np.testing.assert_allclose(ours.boxes.numpy(), loaders[f"{name}/bbox"], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Don't touch the bus-stop!", "Dont touch the busstop"),
        ("3.14 snow_boarders", "314 snowboarders"),
        ("x² is ½ of 猫", "x² is ½ of 猫"),
        ("_?!", ""),
    ],
)
def test_cleaning_deletes_without_putting_a_space(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("texts", "limit", "width"),
    [
        (["cat"], 12, 4),
        (["a cat on the left"], 12, 8),
        (["a cat on the left"] * 2 + ["a " * 40], 12, 12),
        (["a " * 40], 11, 11),
    ],
    ids=["short", "rounded", "cut", "limit is no multiple"],
)
def test_texts_are_as_wide_as_the_batch_needs(
    make_rosita: Callable[..., Rosita], texts: list[str], limit: int, width: int
) -> None:
    pairs = [Pair(text, "image") for text in texts]

    encoding = make_rosita().pair_encoder(limit)(pairs, region_batch([3] * len(texts)))

    assert encoding.token_ids.shape == encoding.text_mask.shape == (len(texts), width)


@pytest.mark.parametrize("counts", [[3, 3], [1, 2], [5, 1]], ids=["exact", "fewer", "more"])
def test_regions_are_padded_and_cut_to_the_configured_number(
    make_rosita: Callable[..., Rosita], counts: list[int]
) -> None:
    regions = region_batch(counts)

    encoding = make_rosita(num_regions=3).pair_encoder(8)([Pair("a", "image")] * 2, regions)

    kept = min(3, regions.mask.shape[1])
    assert encoding.region_mask.sum(1).tolist() == [min(count, 3) for count in counts]
    assert encoding.region_features.dtype is torch.float16  # as stored: casting is the device's work
    assert encoding.region_features[:, :kept].tolist() == regions.features[:, :kept].tolist()
    assert encoding.boxes.shape == (2, 3, 5)
    assert not encoding.boxes[~encoding.region_mask].any()


def test_box_features_are_corners_and_area_as_shares_of_the_image(make_rosita: Callable[..., Rosita]) -> None:
    regions = RegionBatch(
        ("image",),
        np.zeros((1, 1, 6), np.float32),
        np.float32([[[20, 10, 120, 60]]]),
        np.ones((1, 1), np.bool_),
        np.float32([[100, 200]]),
    )

    encoding = make_rosita().pair_encoder(8)([Pair("a", "image")], regions)

    assert encoding.boxes[0, 0].tolist() == pytest.approx([0.1, 0.1, 0.6, 0.6, 0.25])


def test_features_of_another_width_are_an_error(make_rosita: Callable[..., Rosita]) -> None:
    with pytest.raises(DataError, match="'image0' are 7 wide, backbone 'rosita' expects 6"):
        make_rosita().pair_encoder(8)([Pair("a", "image0")], region_batch([3], width=7))


def test_the_encoder_is_picklable(make_rosita: Callable[..., Rosita]) -> None:
    encoder = make_rosita().pair_encoder(8)
    pairs, regions = [Pair("a cat", "image")], region_batch([3])

    again = pickle.loads(pickle.dumps(encoder))

    assert again(pairs, regions).token_ids.tolist() == encoder(pairs, regions).token_ids.tolist()


@pytest.mark.parametrize("length", [2, 13])
def test_impossible_text_lengths_are_refused(make_rosita: Callable[..., Rosita], length: int) -> None:
    with pytest.raises(ConfigError, match=f"max_text_tokens is {length}, backbone 'rosita' takes 3 .* to 12"):
        make_rosita(max_positions=12).pair_encoder(length)
