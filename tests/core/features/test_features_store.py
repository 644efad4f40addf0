from __future__ import annotations

import gc
import pickle
import shutil
from dataclasses import fields

import numpy as np
import pytest

from vlrun import RegionFeatureStore
from vlrun.errors import DataError
from vlrun.features.handles import shared_handle
from vlrun.features.writer import write_store


def test_an_image_comes_back_as_it_was_written(tmp_path, make_regions):
    written = make_regions("a")
    write_store(tmp_path / "s", [written], dtype="float32")
    read = RegionFeatureStore(tmp_path / "s")["a"]
    for field in fields(written):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(written, field.name))


def test_arrays_the_source_did_not_have_stay_none(tmp_path, make_regions):
    write_store(tmp_path / "s", [make_regions("a", attribute_ids=None, class_scores=None)])
    read = RegionFeatureStore(tmp_path / "s")["a"]
    assert read.attribute_ids is None
    assert read.class_scores is None
    assert read.class_ids is not None
    assert read.attribute_scores is not None


def test_features_are_float16_unless_asked_otherwise(tmp_path, make_regions):
    write_store(tmp_path / "half", [make_regions("a")])
    write_store(tmp_path / "single", [make_regions("a")], dtype="float32")
    assert RegionFeatureStore(tmp_path / "half").read(["a"]).features.dtype == np.float16
    assert RegionFeatureStore(tmp_path / "single").read(["a"]).features.dtype == np.float32


def test_a_batch_keeps_order_and_repeats_and_pads_with_zeros(store_path):
    store = RegionFeatureStore(store_path)
    ids = ["COCO_val2014_000000000007", "COCO_val2014_000000000000", "COCO_val2014_000000000007"]
    batch = store.read(ids)
    assert batch.image_ids == tuple(ids)
    assert batch.features.shape == (3, 5, 8)
    assert batch.mask.tolist() == [[True] * 5, [True] * 2 + [False] * 3, [True] * 5]
    assert not batch.features[1, 2:].any()
    assert not batch.boxes[1, 2:].any()
    np.testing.assert_array_equal(batch.features[0], batch.features[2])
    np.testing.assert_array_equal(batch.features[1, :2], store[ids[1]].features)
    np.testing.assert_array_equal(batch.boxes[0], store[ids[0]].boxes)
    np.testing.assert_array_equal(batch.sizes, [[480, 640]] * 3)


def test_a_batch_has_the_classes_of_its_images_where_they_are_asked_for(store_path):
    store = RegionFeatureStore(store_path)
    ids = ["COCO_val2014_000000000007", "COCO_val2014_000000000000", "COCO_val2014_000000000007"]
    batch, without = store.read_with_classes(ids), store.read(ids)
    for field in fields(without):
        if (array := getattr(without, field.name)) is not None:
            np.testing.assert_array_equal(getattr(batch, field.name), array)
    for name in ("class_ids", "attribute_ids", "class_scores", "attribute_scores"):
        assert getattr(without, name) is None
        array = getattr(batch, name)
        assert array.shape == (3, 5)
        for row, image_id in enumerate(ids):
            own = getattr(store[image_id], name)
            np.testing.assert_array_equal(array[row, : len(own)], own)
            assert not array[row, len(own) :].any()


def test_classes_that_the_source_did_not_have_are_none_in_a_batch(tmp_path, make_regions):
    write_store(tmp_path / "s", [make_regions(name, attribute_ids=None) for name in "ab"])
    batch = RegionFeatureStore(tmp_path / "s").read_with_classes(["a", "b"])
    assert batch.attribute_ids is None
    assert batch.class_ids is not None


def test_classes_of_some_images_alone_are_an_error(tmp_path, make_regions):
    write_store(tmp_path / "s", [make_regions("a"), make_regions("b", attribute_ids=None)])
    with pytest.raises(DataError, match="less of it, such as b; build the region features again"):
        RegionFeatureStore(tmp_path / "s").read_with_classes(["a", "b"])


def test_an_empty_batch_is_allowed(store_path):
    assert RegionFeatureStore(store_path).read([]).features.shape == (0, 0, 8)


def test_batches_are_copies_that_outlive_the_store(store_path):
    store = RegionFeatureStore(store_path)
    batch, regions = store.read(store.image_ids()), store["COCO_val2014_000000000001"]
    expected = batch.features.copy(), regions.boxes.copy()
    del store
    gc.collect()
    batch.features[0] += 1
    np.testing.assert_array_equal(batch.features[1:], expected[0][1:])
    np.testing.assert_array_equal(regions.boxes, expected[1])
    assert regions.features.flags.writeable


def test_ids_length_and_membership(store_path):
    store = RegionFeatureStore(store_path)
    assert len(store) == len(store.image_ids()) == 12
    assert store.image_ids() == sorted(store)
    assert "COCO_val2014_000000000003" in store
    assert "3" not in store
    assert store.missing(["x", "COCO_val2014_000000000003", "y", "x"]) == ["x", "y"]


def test_an_unknown_image_is_named_with_the_store_and_the_likely_spelling(store_path):
    store = RegionFeatureStore(store_path)
    message = rf"image '3' has no region features in {store_path} \(12 images\); did you mean 'COCO_val2014_0+3'\?"
    with pytest.raises(DataError, match=message):
        store["3"]
    with pytest.raises(DataError, match=message):
        store.read(["COCO_val2014_000000000001", "3"])
    with pytest.raises(DataError, match=r"'coco-val2014-000000000003'.* did you mean 'COCO_val2014_000000000003'\?"):
        store["coco-val2014-000000000003"]
    with pytest.raises(DataError, match=r"\(12 images\)$"):
        store["dev-850-3-img1"]


def test_folder_file_and_single_file_store_are_the_same_store(store_path, tmp_path):
    single = tmp_path / "single.lmdb"
    shutil.copy(store_path / "data.mdb", single)
    stores = [RegionFeatureStore(path) for path in (store_path, store_path / "data.mdb", single, str(single))]
    assert len({store.fingerprint for store in stores}) == 1
    assert {len(store.read(store.image_ids()).image_ids) for store in stores} == {12}


def test_a_wrong_path_lists_what_was_found(store_path, tmp_path):
    with pytest.raises(DataError, match=r"there is no region-feature store at .*/stroe: .* it holds .*store/"):
        RegionFeatureStore(tmp_path / "stroe")
    with pytest.raises(DataError, match=r"is not a region-feature store: it holds store/; a store holds data\.mdb"):
        RegionFeatureStore(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.jpg.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds x\.jpg\.npz \(source files: .* `runner features build`"):
        RegionFeatureStore(tmp_path / "raw")
    with pytest.raises(DataError, match=r"x\.jpg\.npz is an empty file, not an LMDB file"):
        RegionFeatureStore(tmp_path / "raw" / "x.jpg.npz")


def test_a_foreign_lmdb_is_refused_with_its_first_keys(tmp_path):
    import lmdb

    with lmdb.open(str(tmp_path / "volta"), lock=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"58350", b"\x80\x04pickle")
    with pytest.raises(DataError, match=r"did not make \(first keys: b'58350'\)"):
        len(RegionFeatureStore(tmp_path / "volta"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_copy_is_refused_and_does_not_crash(store_path, tmp_path, share):
    content = (store_path / "data.mdb").read_bytes()
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"truncated|not complete|empty file"):
        RegionFeatureStore(copy).read(["COCO_val2014_000000000001"])


def test_one_handle_for_all_stores_over_a_file_that_closes_with_the_last(store_path):
    first, second = RegionFeatureStore(store_path), RegionFeatureStore(store_path / "data.mdb")
    assert len(first) == len(second)
    assert shared_handle((store_path / "data.mdb").resolve()) is first._open() is second._open()
    del first, second
    gc.collect()
    assert len(RegionFeatureStore(store_path)) == 12  # py-lmdb refuses a second handle, so the first must be closed


def test_a_pickled_store_holds_a_path_and_no_content(store_path):
    store = RegionFeatureStore(store_path)
    store.read(store.image_ids())
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert pickle.loads(pickled).fingerprint == store.fingerprint


def test_a_store_built_anew_under_the_same_name_is_read_anew(store_path, make_regions):
    old = RegionFeatureStore(store_path)
    before = old["COCO_val2014_000000000001"].features
    write_store(store_path, [make_regions("new")], overwrite=True)
    assert RegionFeatureStore(store_path).image_ids() == ["new"]
    np.testing.assert_array_equal(old["COCO_val2014_000000000001"].features, before)  # still the old, consistent


def test_a_damaged_record_is_named(store_path, make_regions):
    content = bytearray((store_path / "data.mdb").read_bytes())
    content[content.rindex(b"VLRF") + 4] = 99  # the layout version of some record
    (store_path / "data.mdb").write_bytes(content)
    store = RegionFeatureStore(store_path)
    with pytest.raises(DataError, match=r"image 'COCO_val2014_\d+' is damaged in .*: record layout 99"):
        store.read(store.image_ids())


def test_half_precision_is_what_numpy_makes_of_it(tmp_path, make_regions):
    """Torch casts, for it is twenty times faster; ties, tiny and large numbers round as with numpy."""
    ties = np.array([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 65504, 65519, -65519, 2**-24, 2**-25, 3 * 2**-26, -0.0])
    drawn = np.random.default_rng(0).normal(size=30_000) * 10.0 ** np.random.default_rng(1).integers(-9, 4, 30_000)
    features = np.concatenate([ties, drawn]).astype(np.float32).reshape(5, -1)
    write_store(tmp_path / "store", [make_regions("a", features=features)])
    stored = RegionFeatureStore(tmp_path / "store")["a"].features
    np.testing.assert_array_equal(stored.view(np.uint16), features.astype(np.float16).view(np.uint16))
