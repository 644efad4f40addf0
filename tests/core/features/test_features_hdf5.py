"""HDF5 files of VOLTA and of GQA's authors, each made here in its documented layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from importing import Images, assert_detected, assert_equal, built, problems

from vlrun.features.formats.volta_hdf5 import is_volta_hdf5


class TestVoltaHdf5:
    @pytest.fixture(autouse=True)
    def _needs_h5py(self) -> None:
        pytest.importorskip("h5py")

    def test_is_read_whole(self, images: Images, tmp_path: Path) -> None:
        store = built(foreign.volta_hdf5(tmp_path / "val_boxes36.h5", images), "volta-hdf5")
        assert_equal(store, images)
        assert_detected(store, images)

    def test_sizes_may_come_from_a_file_beside_it(self, images: Images, tmp_path: Path) -> None:
        file = foreign.volta_hdf5(tmp_path / "val_boxes36.h5", images, with_sizes=False)
        assert "group 'COCO_val2014_000000000001': has no image size" in problems(file, "volta-hdf5")
        sizes = {regions.image_id: [regions.height, regions.width] for regions in images}
        (tmp_path / "image_sizes.json").write_text(json.dumps(sizes))
        assert_equal(built(file, "volta-hdf5"), images)

    def test_what_is_no_group_of_an_image_is_named(self, images: Images, tmp_path: Path) -> None:
        import h5py

        file = foreign.volta_hdf5(tmp_path / "a.h5", images)
        with h5py.File(file, "a") as opened:
            opened["zzz"] = np.zeros(3)
            del opened[images[1].image_id]["boxes"]
        found = problems(file, "volta-hdf5")
        assert "group 'zzz': damaged" in found
        assert f"group '{images[1].image_id}': has no 'boxes'" in found

    def test_a_cut_file_is_damaged(self, images: Images, tmp_path: Path) -> None:
        file = foreign.volta_hdf5(tmp_path / "a.h5", images)
        file.write_bytes(file.read_bytes()[:-100])
        assert "cannot be read as HDF5, it may be damaged" in problems(file, "volta-hdf5")

    @pytest.mark.parametrize(
        ("name", "said"),
        [(b"COCO_val2014_00000000000\x7f", "': damaged"), (b"COCO_val2014_00000000000\xff", "are not UTF-8: b'COCO_")],
    )
    def test_a_damaged_name_is_said(self, name: bytes, said: str, images: Images, tmp_path: Path) -> None:
        file = foreign.volta_hdf5(tmp_path / "a.h5", images)
        file.write_bytes(file.read_bytes().replace(images[0].image_id.encode(), name))
        assert is_volta_hdf5(file)  # else no format would recognise it, and nobody say what is wrong
        assert said in problems(file, "volta-hdf5")


class TestGqaHdf5:
    @pytest.fixture(autouse=True)
    def _needs_h5py(self) -> None:
        pytest.importorskip("h5py")

    def test_is_read_without_its_padding(self, images: Images, tmp_path: Path) -> None:
        store = built(foreign.gqa(tmp_path / "objects", images), "gqa-hdf5")
        assert_equal(store, images)
        assert store.manifest.extractor == "gqa-objects"

    def test_the_folder_above_is_recognised(self, images: Images, tmp_path: Path) -> None:
        foreign.gqa(tmp_path / "gqa" / "objects", images)
        assert_equal(built(tmp_path / "gqa", "gqa-hdf5"), images)

    def test_a_missing_file_is_named(self, images: Images, tmp_path: Path) -> None:
        folder = foreign.gqa(tmp_path / "objects", images)
        (folder / "gqa_objects_1.h5").unlink()
        assert "gqa_objects_info.json needs" in (found := problems(folder, "gqa-hdf5"))
        assert "gqa_objects_1.h5, which is not there" in found

    def test_a_group_where_values_should_be_is_said(self, images: Images, tmp_path: Path) -> None:
        import h5py

        folder = foreign.gqa(tmp_path / "objects", images)
        with h5py.File(folder / "gqa_objects_0.h5", "a") as file:
            del file["features"]
            file.create_group("features").create_group("a")
        assert "row 0 (image 'COCO_val2014_000000000001'): damaged" in problems(folder, "gqa-hdf5")

    def test_a_truncated_file_is_named_with_the_row(self, images: Images, tmp_path: Path) -> None:
        folder = foreign.gqa(tmp_path / "objects", images)
        file = folder / "gqa_objects_0.h5"
        file.write_bytes(file.read_bytes()[:-500])
        assert f"{file}: row 0 (image 'COCO_val2014_000000000001'): damaged" in problems(folder, "gqa-hdf5")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"idx": 99}, "says row 99"),
            ({"objectsNum": 500}, "500 objects; the file has"),
            ({"width": "640"}, "expected whole numbers file, idx, objectsNum, width, height"),
        ],
    )
    def test_a_wrong_entry_is_named(self, images: Images, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        folder = foreign.gqa(tmp_path / "objects", images)
        info = json.loads((folder / "gqa_objects_info.json").read_text())
        info[images[0].image_id] |= change
        (folder / "gqa_objects_info.json").write_text(json.dumps(info))
        found = problems(folder, "gqa-hdf5")
        assert images[0].image_id in found
        assert message in found
