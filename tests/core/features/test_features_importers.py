"""Stores of other projects, each made here in its documented layout: recognised, read, and refused with the place."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from importing import FORMATS, Images, assert_detected, assert_equal, built, problems

from vlrun import FeatureOrigin, RegionFeatures, RegionFeatureStore
from vlrun.errors import DataError
from vlrun.features.build import build_store, detect_format
from vlrun.features.formats.fields import regions_from
from vlrun.features.formats.uniter import uniter_image_id
from vlrun.foreign.pickled_arrays import read_object_array, read_pickle


class TestPickledLmdb:
    @pytest.mark.parametrize("protocol", [2, 4, 5])
    @pytest.mark.parametrize(
        ("layout", "name"),
        [(foreign.vilbert, "vilbert-lmdb"), (foreign.volta, "vilbert-lmdb"), (foreign.mmf_lmdb, "mmf-lmdb")],
        ids=["vilbert", "volta", "mmf"],
    )
    def test_is_read(self, images: Images, tmp_path: Path, layout: Any, name: str, protocol: int) -> None:
        assert_equal(built(foreign.pickled(tmp_path / "source", images, layout, protocol=protocol), name), images)

    @pytest.mark.parametrize("layout", [foreign.volta, foreign.volta_from_hdf5], ids=["from-tsv", "from-hdf5"])
    def test_volta_keeps_classes_and_scores(self, images: Images, tmp_path: Path, layout: Any) -> None:
        store = built(foreign.pickled(tmp_path / "source", images, layout), "vilbert-lmdb")
        assert_equal(store, images)
        assert_detected(store, images)

    def test_mmf_keeps_classes_and_their_probabilities(self, images: Images, tmp_path: Path) -> None:
        store = built(foreign.pickled(tmp_path / "source", images, foreign.mmf_lmdb), "mmf-lmdb")
        assert_detected(store, images, "class_ids", "class_scores")

    def test_a_number_as_key_is_the_image_that_the_value_names(self, images: Images, tmp_path: Path) -> None:
        keys = [str(number) for number in range(1, 6)]
        assert_equal(built(foreign.pickled(tmp_path / "source", images, foreign.volta, keys), "vilbert-lmdb"), images)

    def test_another_id_than_the_key_is_refused(self, images: Images, tmp_path: Path) -> None:
        keys = ["1", "2", "9", "4", "5"]
        found = problems(foreign.pickled(tmp_path / "source", images, foreign.volta, keys), "vilbert-lmdb")
        assert found.splitlines()[0].endswith("key '9': says it is image 'COCO_val2014_000000000003'")

    def test_a_pickle_that_would_run_something_is_refused_unrun(self, images: Images, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "it-ran"),)

        source = foreign.pickled(tmp_path / "source", images[:1], lambda _: {"features": Hostile()})
        assert "would use posix.mkdir" in problems(source, "vilbert-lmdb")
        assert not (tmp_path / "it-ran").exists()

    def test_a_hostile_list_of_keys_is_refused_unrun(self, images: Images, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "it-ran"),)

        values = {b"1": pickle.dumps(foreign.vilbert(images[0])), b"keys": pickle.dumps(Hostile())}
        assert "list 'keys' cannot be read: refused" in problems(
            foreign.write_lmdb(tmp_path / "source", values), "vilbert-lmdb"
        )
        assert not (tmp_path / "it-ran").exists()

    def test_listed_images_without_a_record_are_named(self, images: Images, tmp_path: Path) -> None:
        values = {b"1": pickle.dumps(foreign.vilbert(images[0])), b"keys": pickle.dumps([b"1", b"2", b"3"])}
        found = problems(foreign.write_lmdb(tmp_path / "source", values), "vilbert-lmdb")
        assert "names 2 images without a record: 2, 3; the file is not complete" in found

    def test_a_truncated_file_is_refused(self, make_regions: Any, tmp_path: Path) -> None:
        images = [make_regions(f"image-{number}", 20, 400) for number in range(9)]
        source = foreign.pickled(tmp_path / "source", images, foreign.vilbert)
        file = source / "data.mdb"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match="is truncated: it has"):
            detect_format([source], FORMATS)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"features": None}, "'features' is NoneType, expected an array or base64"),
            ({"features": np.zeros((9, 4, 4))}, r"'features' has shape (9, 4, 4)"),
            ({"features": "AAAA"}, "features: 3 bytes are no whole number of float32"),
            ({"boxes": np.zeros((1, 4))}, "'boxes' has shape (1, 4)"),
            ({"num_boxes": 2.5}, "'num_boxes' is '2.5', expected one whole number"),
            ({"image_h": "tall"}, "'image_h' is 'tall'"),
            ({"boxes": np.array([["a"] * 4] * 3)}, "'boxes' holds <U1, not numbers"),
        ],
        ids=["none", "three-dimensional", "cut", "few-boxes", "half-a-box", "size", "letters"],
    )
    def test_a_damaged_value_is_named_with_its_key(
        self, images: Images, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        source = foreign.pickled(tmp_path / "source", images[:1], lambda regions: foreign.vilbert(regions) | change)
        found = problems(source, "vilbert-lmdb")
        assert "key 'COCO_val2014_000000000001'" in found
        assert message in found

    def test_a_damaged_pickle_is_named(self, images: Images, tmp_path: Path) -> None:
        values = {b"1": pickle.dumps(foreign.vilbert(images[0]))[:-40], b"keys": pickle.dumps([b"1"])}
        found = problems(foreign.write_lmdb(tmp_path / "source", values), "vilbert-lmdb")
        assert "key '1': damaged pickle" in found

    def test_a_missing_value_lists_what_is_there(self, images: Images, tmp_path: Path) -> None:
        source = foreign.pickled(tmp_path / "source", images[:1], lambda regions: {"features": regions.features})
        assert "has no 'boxes' and no 'img_h' and no 'img_w'; it holds features" in problems(source, "vilbert-lmdb")


class TestUniter:
    @pytest.mark.parametrize("pack", [foreign.as_npz, foreign.as_msgpack, foreign.as_lz4])
    def test_is_read(self, images: Images, tmp_path: Path, pack: Any) -> None:
        if pack is not foreign.as_npz:
            pytest.importorskip("msgpack")
            pytest.importorskip("lz4")
        named = {f"coco_val2014_{number:012d}.npz": regions for number, regions in enumerate(images, 1)}
        sizes = {regions.image_id: [regions.height, regions.width] for regions in images}
        source = foreign.uniter(tmp_path / "feat_th0.2_max100_min10", named, pack, sizes)
        store = built(source, "uniter-lmdb")
        assert_equal(store, images, tolerance=2e-3, boxes=0.5)  # half precision of a part of 640 pixels
        assert_detected(store, images, "class_ids", "class_scores", tolerance=1e-3)
        assert (store.manifest.extractor, store.manifest.boxes) == ("bua-caffe", "10-100")

    @pytest.mark.parametrize(
        ("key", "image_id"),
        [
            ("coco_val2014_000000058350.npz", "COCO_val2014_000000058350"),
            ("visual_grounding_coco_gt_000000581857.npz", "COCO_train2014_000000581857"),
            ("visual_grounding_det_coco_000000581857.npz", "COCO_train2014_000000581857"),
            ("flickr30k_000065567698.npz", "65567698"),
            ("vg_000000002318.npz", "2318"),
            ("nlvr2_dev-850-0-img0.npz", "dev-850-0-img0"),
            ("my_own.npz", "my_own"),
        ],
    )
    def test_names_become_the_ids_of_annotations(self, key: str, image_id: str) -> None:
        assert uniter_image_id(key) == image_id

    def test_sizes_are_needed(self, images: Images, tmp_path: Path) -> None:
        source = foreign.uniter(tmp_path / "feat_numbb36", {"coco_val2014_000000000001.npz": images[0]}, foreign.as_npz)
        assert "have no image sizes" in problems(source, "uniter-lmdb")
        (tmp_path / "instances_val2014.json").write_text(
            json.dumps({"images": [{"file_name": "COCO_val2014_000000000001.jpg", "height": 480, "width": 640}]})
        )
        store = built(source, "uniter-lmdb")
        assert_equal(store, images[:1], tolerance=2e-3, boxes=0.5)
        assert store.manifest.boxes == "36"

    def test_an_image_without_size_is_named(self, images: Images, tmp_path: Path) -> None:
        source = foreign.uniter(tmp_path / "db", {"nlvr2_dev-1-0-img0.npz": images[0]}, foreign.as_npz, {"x": [1, 1]})
        found = problems(source, "uniter-lmdb")
        assert "key 'nlvr2_dev-1-0-img0.npz'" in found
        assert "image_sizes.json: no size of image 'dev-1-0-img0'" in found

    @pytest.mark.parametrize(
        ("pack", "message"),
        [
            (lambda values: foreign.as_npz(values)[:-300], "damaged npz"),
            (lambda values: foreign.as_npz({"features": values["features"]}), "has no array 'norm_bb'"),
            (lambda values: foreign.as_npz(values | {"norm_bb": values["norm_bb"] * 300}), "expected 0 to 1"),
            (lambda values: b"\xc1 no msgpack", "damaged msgpack"),
        ],
        ids=["cut", "without-boxes", "pixels", "noise"],
    )
    def test_a_damaged_value_is_named(self, images: Images, tmp_path: Path, pack: Any, message: str) -> None:
        pytest.importorskip("msgpack")
        source = foreign.uniter(tmp_path / "db", {"a.npz": images[0]}, pack, {"a": [480, 640]})
        assert message in (found := problems(source, "uniter-lmdb"))
        assert "key 'a.npz': " in found

    def test_what_unpacks_to_more_than_an_image_has_is_refused(
        self, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("lz4")
        pytest.importorskip("msgpack")
        monkeypatch.setattr("vlrun.features.formats.uniter.MOST_BYTES", 300)
        source = foreign.uniter(tmp_path / "db", {"a.npz": images[0]}, foreign.as_lz4, {"a": [480, 640]})
        assert "damaged LZ4 frame: it ends early, or unpacks to more than 300 bytes" in problems(source, "uniter-lmdb")

    def test_a_frame_that_announces_more_than_there_is_memory_is_damaged(
        self, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lz4 = pytest.importorskip("lz4.frame")
        pytest.importorskip("msgpack")
        source = foreign.uniter(tmp_path / "db", {"a.npz": images[0]}, foreign.as_lz4, {"a": [480, 640]})

        class Decompressor:
            def decompress(self, content: bytes, most: int) -> bytes:
                raise MemoryError

        monkeypatch.setattr(lz4, "LZ4FrameDecompressor", Decompressor)
        assert "key 'a.npz': damaged LZ4 frame" in problems(source, "uniter-lmdb")

    def test_packed_objects_are_refused(self, images: Images, tmp_path: Path) -> None:
        msgpack = pytest.importorskip("msgpack")
        packed = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": (1,), b"data": b"cposix\nsystem\n"}
        pickled = msgpack.packb({"features": packed})
        source = foreign.uniter(tmp_path / "db", {"a.npz": images[0]}, lambda _: pickled, {})
        assert "refused: holds an array of kind b'O'" in problems(source, "uniter-lmdb")


class TestVinvl:
    @pytest.mark.parametrize(
        ("file", "row"),
        [("features.tsv", foreign.vinvl_three_columns), ("train.feature.tsv", foreign.vinvl_json)],
        ids=["three-columns", "json"],
    )
    @pytest.mark.parametrize("sizes", ["predictions.tsv", "train.hw.tsv"])
    def test_features_with_geometry_are_read(
        self, images: Images, tmp_path: Path, file: str, row: Any, sizes: str
    ) -> None:
        folder = tmp_path / "vinvl"
        folder.mkdir()
        size_row = foreign.vinvl_sizes if sizes == "train.hw.tsv" else foreign.vinvl_predictions
        (folder / file).write_text("".join(map(row, images)))
        (folder / sizes).write_text("".join(map(size_row, images)))
        store = built(folder, "vinvl-tsv")
        assert_equal(store, images, boxes=1e-3)
        assert store.manifest.extractor == "vinvl"

    def test_predictions_with_features_are_read(self, images: Images, tmp_path: Path) -> None:
        file = tmp_path / "predictions.tsv"
        file.write_text("".join(map(foreign.vinvl_predictions, images)))
        store = built(file, "vinvl-tsv")
        assert_equal(store, images)
        assert_detected(store, images, "class_scores")

    def test_names_of_classes_and_attributes_become_numbers(self, images: Images, tmp_path: Path) -> None:
        file = tmp_path / "predictions.tsv"
        file.write_text("".join(map(foreign.vinvl_named, images)))
        assert_detected(built(file, "vinvl-tsv"), images, "class_scores", "attribute_scores")
        (tmp_path / "VG-SGG-dicts-vgoi6-clipped.json").write_text(json.dumps(foreign.vinvl_numbers()))
        store = build_store([file], tmp_path / "named", FORMATS["vinvl-tsv"], dtype="float32")
        assert_detected(RegionFeatureStore(store.path), images)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("a\t2\tAAAA", ":1: features: 3 bytes are no whole number"),
            ("a\t0\tAAAA", ":1: 0 regions"),
            (f"a\t2\t{foreign.text(np.arange(20))}", ":1: the last 6 of 10 columns are not the geometry"),
            ('a\t{"features": 1}', ":1: its JSON has no 'num_boxes' and 'features'"),
            ('a\t{"features": "', ":1: damaged JSON"),
            ('a\t{"objects": [{"rect": [0, 0, 1, 1], "features": 1}]}', "an object has no 'feature'"),
        ],
        ids=["cut", "none", "without-geometry", "without-number", "json", "without-feature"],
    )
    def test_a_damaged_row_is_named(self, tmp_path: Path, row: str, message: str) -> None:
        (tmp_path / "features.tsv").write_text(row + "\n")
        assert message in problems(tmp_path / "features.tsv", "vinvl-tsv")

    def test_an_image_without_size_is_named(self, images: Images, tmp_path: Path) -> None:
        (tmp_path / "features.tsv").write_text(foreign.vinvl_three_columns(images[0]))
        found = problems(tmp_path / "features.tsv", "vinvl-tsv")
        assert ":1: no predictions.tsv or hw.tsv beside it: no size of image 'COCO_val2014_000000000001'" in found


class TestMmfFolder:
    def test_is_read(self, images: Images, tmp_path: Path) -> None:
        store = built(foreign.mmf_folder(tmp_path / "source", images), "mmf-npy")
        assert_equal(store, images)
        assert_detected(store, images, "class_ids", "class_scores")

    def test_probabilities_with_the_background_in_front_are_those_of_the_classes(
        self, make_regions: Callable[..., RegionFeatures]
    ) -> None:
        regions = make_regions("a")
        values = {**foreign.mmf(regions), "features": regions.features}
        values["cls_prob"] = foreign.mmf_probabilities(regions, background=1)
        np.testing.assert_array_equal(regions_from("a", values).class_scores, regions.class_scores)

    def test_probabilities_of_something_else_are_left_out(self, make_regions: Callable[..., RegionFeatures]) -> None:
        regions = make_regions("a")
        values = {**foreign.mmf(regions), "features": regions.features, "objects": (regions.class_ids + 1) % 1600}
        found = regions_from("a", values)
        assert found.class_scores is None
        assert found.class_ids is not None
        assert regions_from("a", {**values, "objects": regions.class_ids[1:]}).class_ids is None  # an old script's slip

    def test_folders_in_it_are_read(self, images: Images, tmp_path: Path) -> None:
        foreign.mmf_folder(tmp_path / "source" / "train", images[:2])
        foreign.mmf_folder(tmp_path / "source" / "val", images[2:])
        assert_equal(built(tmp_path / "source", "mmf-npy"), images)

    @pytest.mark.parametrize(
        ("lost", "message"),
        [
            ("_info.npy", "1 files have no _info.npy with boxes and image size beside them"),
            (".npy", "1 files belong to no features: COCO_val2014_000000000001_info.npy"),
        ],
    )
    def test_a_lone_file_is_named(self, images: Images, tmp_path: Path, lost: str, message: str) -> None:
        folder = foreign.mmf_folder(tmp_path / "source", images)
        (folder / f"{images[0].image_id}{lost}").unlink()
        assert message in problems(folder, "mmf-npy")

    def test_a_hostile_info_is_refused_unrun(self, images: Images, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "it-ran"),)

        folder = foreign.mmf_folder(tmp_path / "source", images[:1])
        file = folder / f"{images[0].image_id}.npy"
        whole = file.read_bytes()
        np.save(file, np.array([Hostile()], object))
        assert "Object arrays cannot be loaded" in problems(folder, "mmf-npy")
        file.write_bytes(whole)
        np.save(folder / f"{images[0].image_id}_info.npy", np.array({"bbox": Hostile()}))
        found = problems(folder, "mmf-npy")
        assert f"{images[0].image_id}.npy: {images[0].image_id}_info.npy: refused: loading it would use posix" in found
        assert not (tmp_path / "it-ran").exists()

    def test_cut_files_are_named(self, images: Images, tmp_path: Path) -> None:
        folder = foreign.mmf_folder(tmp_path / "source", images[:2])
        first, second = (folder / f"{regions.image_id}.npy" for regions in images[:2])
        first.write_bytes(first.read_bytes()[:-5])
        info = second.with_name(f"{images[1].image_id}_info.npy")
        info.write_bytes(info.read_bytes()[:100])
        found = problems(folder, "mmf-npy").splitlines()
        assert found[0].startswith(f"{first}: damaged")
        assert found[1].startswith(f"{second}: {info.name}: damaged")


HOSTILE = {
    "os.system": b"cos\nsystem\n(S'true'\ntR.",
    "eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "numpy.load": b"\x80\x04\x8c\x05numpy\x8c\x04load\x93\x8c\x01x\x85R.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile.\x93.",
    "codec": b"c_codecs\nencode\n(Va\nVrot13\ntR.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_only_arrays_and_plain_values_are_unpickled(content: bytes) -> None:
    with pytest.raises(DataError, match=r"refused|damaged"):
        read_pickle(content)


def test_a_file_of_numbers_is_no_info() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(1))
    with pytest.raises(DataError, match="expected one pickled dict"):
        read_object_array(file.getvalue())


def test_what_the_user_says_of_the_extractor_goes_before_what_the_layout_tells(images: Images, tmp_path: Path) -> None:
    file = tmp_path / "predictions.tsv"
    file.write_text("".join(map(foreign.vinvl_predictions, images)))
    manifest = build_store(
        [file], tmp_path / "out", FORMATS["vinvl-tsv"], origin=FeatureOrigin("my-own", boxes="10-100")
    ).manifest
    assert (manifest.extractor, manifest.boxes) == ("my-own", "10-100")
