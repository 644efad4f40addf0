"""The images most like each image, which hard mismatches are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vlrun import DataError, RegionFeatures
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store
from vlrun.seeds import example_rng
from vlrun_pretraining.nearest import nearest_images

WIDTH, COUNT, NEAR = 6, 40, 4
IDS = [f"image{number}" for number in range(COUNT)]
TWINS = (7, 21, 22)
"""Their features are the same."""


def image(number: int) -> RegionFeatures:
    rng = np.random.default_rng(TWINS[0] if number in TWINS else number)
    num_regions = 1 + int(rng.integers(4))
    features = rng.normal(size=(num_regions, WIDTH)).astype(np.float16)
    boxes = np.tile(np.array([1, 2, 50, 60], np.float32), (num_regions, 1))
    return RegionFeatures(IDS[number], features, boxes, 100, 100)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    write_store(tmp_path / "features", map(image, range(COUNT)))
    return tmp_path / "features"


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def tables(folder: Path) -> list[Path]:
    return [*folder.glob("**/nearest-*.npz")]


def plain_table() -> NDArray[np.int64]:
    means = np.stack([image(number).features.mean(axis=0, dtype=np.float64) for number in range(COUNT)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = (means @ means.T).round(7)
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :NEAR]


@pytest.mark.usefixtures("threads")
def test_they_are_in_the_order_of_their_cosines_and_twins_in_that_of_the_images(features: Path) -> None:
    table = nearest_images(features, IDS, NEAR)
    assert table.tolist() == plain_table().tolist()
    assert table[TWINS[1], :2].tolist() == [TWINS[0], TWINS[2]]


def test_of_few_images_all_others_are_near(features: Path) -> None:
    table = nearest_images(features, IDS[:3], 9)
    assert [sorted(row) for row in table.tolist()] == [[1, 2], [0, 2], [0, 1]]


def test_a_table_is_computed_once(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nearest_images(features, IDS, NEAR)
    assert len(tables(features)) == 1
    with monkeypatch.context() as patch:
        patch.delattr(RegionFeatureStore, "read")
        assert (nearest_images(features, IDS, NEAR) == first).all()
    nearest_images(features, IDS, NEAR + 1)
    nearest_images(features, IDS[1:], NEAR)
    assert len(tables(features)) == 3


@pytest.mark.parametrize("damage", ["", "no table", "half", "others", "objects", "bits"])
def test_a_damaged_table_is_computed_again(features: Path, damage: str) -> None:
    first = nearest_images(features, IDS, NEAR)
    (path,) = tables(features)
    whole = path.read_bytes()
    contents = [damage.encode()]
    if damage == "half":
        contents = [whole[:-20]]
    elif damage == "bits":  # also those that make one image of the table another that is there
        start = whole.index(first.tobytes())
        contents = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (start, start + first.nbytes // 2)]
    elif damage in ("others", "objects"):
        np.savez(path, table=first + 1 if damage == "others" else first.astype(object))
        contents = [path.read_bytes()]
    for content in contents:
        path.write_bytes(content)
        assert (nearest_images(features, IDS, NEAR) == first).all()
        assert path.read_bytes() == whole


def test_other_features_have_another_table(features: Path) -> None:
    first = nearest_images(features, IDS, NEAR)
    turned = [replace(image(number), image_id=IDS[COUNT - 1 - number]) for number in range(COUNT)]
    write_store(features, turned, overwrite=True)
    table = nearest_images(features, IDS, NEAR)
    assert (table[::-1][:, 0] == COUNT - 1 - first[:, 0])[[n for n in range(COUNT) if n not in TWINS]].mean() > 0.9


def test_one_image_has_no_other(features: Path) -> None:
    with pytest.raises(DataError, match="one image alone"):
        nearest_images(features, IDS[:1], NEAR)


def test_a_hard_mismatch_is_one_of_them(make_task: Any, make_dataset: Any, data: Path) -> None:
    train = make_dataset("train")
    task = make_task(mismatch={"probability": 1.0, "nearest": 2})
    task.start_training(train, 0)
    ids = [*dict.fromkeys(train.image_ids())]
    table = nearest_images(data / "features", ids, 2)
    for own, image_id in enumerate(ids):
        example = next(each for each in train if each.image_ids == (image_id,))
        drawn = {task.pairs(example, example_rng(0, epoch, 0))[0].image_id for epoch in range(40)}
        assert drawn == {ids[place] for place in table[own]}
