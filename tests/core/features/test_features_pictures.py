"""Pictures that are read while a run works: from folders and LMDB files, scaled, listed, and refused in one line."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from vlrun import DataError, PictureShape
from vlrun.features.pictures import PictureStore

SHAPE = PictureShape(8, longer=13, multiple=4)
SIZES = {"one": (32, 24), "two": (24, 24), "COCO_val2014_000000000042": (24, 48)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of a colour each, one of them in a folder below."""
    place = tmp_path / "pictures"
    (place / "below").mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items()):
        where = place / "below" if number == 1 else place
        Image.new("RGB", size, (10 + number, 20, 30)).save(where / f"{name}.png")
    return place


def packed(folder: Path, path: Path) -> Path:
    with lmdb.open(str(path), map_size=2**20) as env, env.begin(write=True) as transaction:
        for file in folder.rglob("*.png"):
            transaction.put(file.name.encode(), file.read_bytes())
        transaction.put(b"keys", b"anything")
    return path


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
def test_pictures_are_scaled_and_padded_in_the_order_asked_for(folder: Path, tmp_path: Path, kind: str) -> None:
    store = PictureStore(folder if kind == "folder" else packed(folder, tmp_path / "lmdb"), SHAPE)
    batch = pickle.loads(pickle.dumps(store)).read(["two", "one", "two"])
    assert store.image_ids() == sorted(SIZES)
    assert batch.pixels is not None
    assert batch.pixel_sizes is not None
    assert batch.pixels.shape == (3, 8, 8, 3)
    assert batch.pixel_sizes.tolist() == [[8, 8], [8, 8], [8, 8]]
    assert batch.pixels[1, 0, 0].tolist() == [10, 20, 30]
    assert batch.sizes.tolist() == [[24, 24], [24, 32], [24, 24]]
    assert batch.boxes.tolist() == [[[0, 0, 24, 24]], [[0, 0, 32, 24]], [[0, 0, 24, 24]]]
    assert batch.features.shape == (3, 1, 0)


def test_padding_is_black_beside_a_smaller_picture(folder: Path) -> None:
    batch = PictureStore(folder, PictureShape(8)).read(["two", "COCO_val2014_000000000042"])
    assert batch.pixels is not None
    assert batch.pixels.shape == (2, 16, 8, 3)
    assert not batch.pixels[0, 8:].any()
    assert batch.pixels[1].all()


def test_a_square_is_cut_from_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    batch = PictureStore(tmp_path, PictureShape(8, crop=True)).read(["a"])
    assert batch.pixels is not None
    assert (batch.pixels == 200).all()


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        (PictureShape(384, longer=639, multiple=32), (480, 640), (384, 512)),
        (PictureShape(384, longer=639, multiple=32), (300, 900), (192, 608)),
        (PictureShape(224, crop=True), (480, 640), (224, 298)),
    ],
    ids=["vilt", "vilt, long", "clip"],
)
def test_sizes_are_those_of_the_image_processors_of_transformers(
    shape: PictureShape, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shape.scaled(*size) == expected


def test_the_fingerprint_is_that_of_a_copy_and_not_of_other_pictures(folder: Path, tmp_path: Path) -> None:
    store, copy = PictureStore(folder, SHAPE), shutil.copytree(folder, tmp_path / "copy")
    assert PictureStore(copy, SHAPE).fingerprint == store.fingerprint
    assert PictureStore(packed(folder, tmp_path / "lmdb"), SHAPE).fingerprint == store.fingerprint
    (copy / "one.png").unlink()
    assert PictureStore(copy, SHAPE).fingerprint != store.fingerprint


def test_missing_pictures_are_listed_and_the_same_number_is_recognised(folder: Path) -> None:
    store = PictureStore(folder, SHAPE)
    assert store.missing(["one", "42", "42"]) == ["42"]
    assert store.find_same_image("42") == "COCO_val2014_000000000042"
    with pytest.raises(DataError, match=r"image '42' has no picture in .*3 pictures"):
        store.read(["42"])


def test_two_pictures_of_one_id_are_refused(folder: Path) -> None:
    shutil.copy(folder / "one.png", folder / "below" / "one.png")
    with pytest.raises(DataError, match="1 pictures have the image id of another one: one"):
        PictureStore(folder, SHAPE)


def test_a_damaged_picture_is_named_with_its_file(folder: Path) -> None:
    path = folder / "one.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"image 'one' \(.*one.png\): damaged"):
        PictureStore(folder, SHAPE).read(["one"])


def test_something_else_than_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="holds no pictures"):
        PictureStore(tmp_path, SHAPE)
    with pytest.raises(DataError, match="no folder of pictures and no LMDB"):
        PictureStore(tmp_path / "notes.txt", SHAPE)
