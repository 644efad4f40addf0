"""Importers, on the original-format files of the golden vectors, on real files, and on damaged ones."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile

import numpy as np
import pytest

from vlrun import RegionFeatureStore
from vlrun.errors import DataError
from vlrun.features.build import build_store
from vlrun.interfaces.examples import canonical_image_id
from vlrun.plugins.builtin import vlrun_feature_formats

FORMATS = {found.name: found for found in vlrun_feature_formats()}


def build(path, out, name, **options) -> RegionFeatureStore:
    build_store([path], out, FORMATS[name], **options)
    return RegionFeatureStore(out)


def all_regions(path, name):
    return [record.load() for record in FORMATS[name].open(path).records()]


@pytest.fixture
def mini(golden):
    """A feature folder of the golden vectors: the same images as npz and as ROSITA's TSV."""
    return next((golden / "rosita" / "mini" / "imgfeats").iterdir())


def save_npz(path, regions, **changes):
    arrays = {
        "x": regions.features,
        "boxes": regions.boxes,
        "image_h": np.int64(regions.height),
        "image_w": np.int64(regions.width),
    }
    arrays = {**arrays, **changes}
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})


# ROSITA's golden files


@pytest.mark.golden
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_npz_and_tsv_of_the_same_images_give_equal_stores(mini, tmp_path, dtype):
    from_npz = build(mini, tmp_path / "npz", "npz", dtype=dtype)
    from_tsv = build(mini, tmp_path / "tsv", "rosita-tsv", dtype=dtype)
    assert from_npz.image_ids() == from_tsv.image_ids()
    assert from_npz.fingerprint == from_tsv.fingerprint


@pytest.mark.golden
@pytest.mark.parametrize("name", ["npz", "rosita-tsv"])
def test_a_store_gives_what_rositas_own_loader_gives(golden, mini, tmp_path, name):
    store = build(mini, tmp_path / "store", name, dtype="float32")
    loaded = np.load(golden / "rosita" / "loaders.npz")
    annotations = json.loads((golden / "rosita/mini/annotations/rec-refcoco/rec_refcoco_annotations.json").read_text())[
        "train"
    ]
    features, mask, boxes = (loaded[f"rec/train/{key}"] for key in ("imgfeat", "imgfeat_mask", "img_boxes"))
    assert len(annotations) == len(features)
    batch = store.read([canonical_image_id(row["img_file"]) for row in annotations])
    shared = min(features.shape[1], batch.features.shape[1])  # the original loader pads and cuts to its own number
    assert not batch.mask[:, shared:].any() or shared == features.shape[1]
    np.testing.assert_array_equal(batch.features[:, :shared], features[:, :shared])
    np.testing.assert_array_equal(batch.mask[:, :shared], mask[:, :shared].astype(bool))
    np.testing.assert_array_equal(batch.boxes[:, :shared], boxes[:, :shared])
    np.testing.assert_array_equal(batch.sizes, loaded["rec/train/img_shape"])


# real files


@pytest.mark.samples
def test_real_rosita_npz_files(samples, tmp_path):
    folder = samples / "features" / "rosita_demo_npz"
    store = build(folder, tmp_path / "store", "npz")
    assert len(store) == len(list(folder.glob("*.npz")))
    for image_id in store.image_ids():
        source = np.load(folder / f"{image_id}.jpg.npz")
        regions = store[image_id]
        np.testing.assert_array_equal(regions.features, source["x"].astype(np.float16))
        np.testing.assert_array_equal(regions.boxes, source["boxes"])
        assert (regions.height, regions.width) == (source["image_h"], source["image_w"])
        assert regions.class_ids is None


@pytest.mark.samples
def test_real_lxmert_rows(samples, tmp_path):
    file = samples / "features" / "lxmert_tsv" / "train2014_obj36.tsv"
    store = build(file, tmp_path / "store", "lxmert-tsv")
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    assert store.image_ids() == sorted(row[0] for row in rows)
    for row in rows:
        regions = store[row[0]]
        assert (regions.height, regions.width) == (int(row[1]), int(row[2]))
        np.testing.assert_array_equal(regions.class_ids, np.frombuffer(base64.b64decode(row[3]), np.int64))
        np.testing.assert_array_equal(regions.class_scores, np.frombuffer(base64.b64decode(row[4]), np.float32))
        features = np.frombuffer(base64.b64decode(row[9]), np.float32).reshape(36, 2048)
        np.testing.assert_array_equal(regions.features, features.astype(np.float16))


# height and width: a square image would hide an exchange


def test_lxmert_tsv_has_height_before_width(lxmert_file):
    assert {(r.height, r.width) for r in all_regions(lxmert_file, "lxmert-tsv")} == {(480, 640)}


def test_butd_tsv_has_width_before_height(tmp_path, make_regions, lxmert_row):
    cells = lxmert_row(make_regions("391895")).rstrip().split(b"\t")
    (tmp_path / "butd.tsv").write_bytes(b"\t".join([cells[0], cells[2], cells[1], *cells[7:]]) + b"\n")
    (regions,) = all_regions(tmp_path / "butd.tsv", "butd-tsv")
    assert (regions.image_id, regions.height, regions.width) == ("391895", 480, 640)


def test_rosita_tsv_and_npz_have_height_and_width_by_name(rosita_folder, tmp_path, make_regions):
    save_npz(tmp_path / "a.jpg.npz", make_regions("a"))
    assert {(r.height, r.width) for r in all_regions(tmp_path, "npz")} == {(480, 640)}
    assert {(r.height, r.width) for r in all_regions(rosita_folder, "rosita-tsv")} == {(480, 640)}


# npz


def test_npz_of_bottom_up_attention_is_read_without_unpickling_info(tmp_path, make_regions):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    regions = make_regions("a")
    arrays = {"boxes": None, "bbox": regions.boxes, "num_bbox": 5, "info": np.array(Bomb(), dtype=object)}
    save_npz(tmp_path / "COCO_val2014_000000000042.npz", regions, **arrays)
    (read,) = all_regions(tmp_path, "npz")
    assert read.image_id == "COCO_val2014_000000000042"
    np.testing.assert_array_equal(read.boxes, regions.boxes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"x": None}, r"has no 'x' \(written without features"),
        ({"image_h": None, "boxes": None}, "has no 'bbox' and no 'image_h'"),
        ({"num_boxes": 7}, "'num_boxes' is 7, 'boxes' holds 5"),
        ({"image_w": [640, 480]}, r"'image_w' is \[640, 480\], expected one whole number"),
        ({"filename": "b.jpg"}, "'filename' says b.jpg, the file is named after 'a'"),
        ({"x": np.array(["text"])}, "'x' holds <U4, not numbers"),
    ],
)
def test_npz_with_wrong_arrays_names_file_and_key(tmp_path, make_regions, changes, problem):
    save_npz(tmp_path / "a.jpg.npz", make_regions("a"), **changes)
    with pytest.raises(DataError, match=rf"a\.jpg\.npz: {problem}"):
        build(tmp_path, tmp_path / "out", "npz")


def test_a_damaged_zip_a_pickle_and_a_truncated_file_are_errors(tmp_path, make_regions):
    for name in "abc":
        save_npz(tmp_path / f"{name}.npz", make_regions(name))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        info = archive.getinfo("x.npy")
    content[info.header_offset + 40 + info.compress_size // 2] ^= 0x55
    (tmp_path / "a.npz").write_bytes(content)
    (tmp_path / "b.npz").write_bytes(pickle.dumps({"x": 1}))
    (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:-200])
    with pytest.raises(DataError) as raised:
        build(tmp_path, tmp_path / "out", "npz")
    places = [problem.split(": damaged")[0] for problem in raised.value.problems[:3]]
    assert places == [str(tmp_path / f"{name}.npz") for name in "abc"]


# TSV


@pytest.mark.parametrize(
    ("column", "change", "problem"),
    [
        (9, lambda cell: cell[:-4], r"features: 1\d\d bytes are no whole number of float32 for each of 5 regions"),
        (9, lambda cell: b"*" + cell[1:], "features: (damaged base64|1\\d\\d bytes)"),
        (8, lambda cell: cell[:-8], "boxes: 7\\d bytes, 80 were expected for num_boxes"),
        (7, lambda cell: b"6", "objects_id: 40 bytes, 48 or 24 were expected for num_boxes"),
        (7, lambda cell: b"0", "num_boxes: 0 regions"),
        (1, lambda cell: b"48O", "img_h: b'48O' is not a whole number"),
        (6, lambda cell: b"", "attrs_conf: 0 bytes, 20 were expected"),
        (5, lambda cell: cell + b"\t", "11 columns, expected 10"),
        (0, lambda cell: b"\xff", "img_id: no image id"),
    ],
)
def test_a_damaged_row_names_file_line_and_column(lxmert_file, tmp_path, column, change, problem):
    rows = [row.split(b"\t") for row in lxmert_file.read_bytes().splitlines()]
    rows[4][column] = change(rows[4][column])
    lxmert_file.write_bytes(b"\n".join(b"\t".join(row) for row in rows))
    with pytest.raises(DataError, match=rf"obj36\.tsv:5: {problem}"):
        build(lxmert_file, tmp_path / "out", "lxmert-tsv")


def test_lxmert_rows_with_voltas_three_more_columns_are_read(lxmert_file):
    expected = all_regions(lxmert_file, "lxmert-tsv")
    lxmert_file.write_bytes(lxmert_file.read_bytes().replace(b"\n", b"\tAAAA\tAAAA\tAAAA\r\n"))
    for read, regions in zip(all_regions(lxmert_file, "lxmert-tsv"), expected, strict=True):
        np.testing.assert_array_equal(read.features, regions.features)


def test_a_folder_of_tsv_files_is_read_in_order_and_continues_anywhere(tmp_path, make_regions, lxmert_row):
    names = ["a", "b", "c", "d", "e"]
    (tmp_path / "1.tsv").write_bytes(b"".join(lxmert_row(make_regions(name)) for name in names[:3]))
    (tmp_path / "2.tsv").write_bytes(b"".join(lxmert_row(make_regions(name)) for name in names[3:]))
    source = FORMATS["lxmert-tsv"].open(tmp_path)
    records = list(source.records())
    assert [record.image_id for record in records] == names
    assert [len(list(source.records(record.next))) for record in records] == [4, 3, 2, 1, 0]
    assert records[-1].share == 1


@pytest.mark.parametrize("kind", ["<i8", "<f4", "<i4"])
def test_class_ids_are_read_whatever_type_their_length_tells(lxmert_file, kind):
    row = lxmert_file.read_bytes().splitlines()[0].split(b"\t")
    row[3] = base64.b64encode(np.array([0, 1, 399, 1599, 7], kind).tobytes())
    lxmert_file.write_bytes(b"\t".join(row) + b"\n")
    (regions,) = all_regions(lxmert_file, "lxmert-tsv")
    assert regions.class_ids.tolist() == [0, 1, 399, 1599, 7]


# ROSITA's side files


def test_a_wrong_offset_names_the_line(rosita_folder, tmp_path):
    index = rosita_folder / "imgfeat.lineidx"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([*lines[:3], "17", *lines[4:]]))
    with pytest.raises(DataError, match=rf"imgfeat\.tsv:4: imgfeat\.lineidx:4 says 17, the row starts at {lines[3]}"):
        build(rosita_folder, tmp_path / "out", "rosita-tsv")


def test_rows_that_are_missing_or_too_many_are_errors(rosita_folder, tmp_path):
    table = rosita_folder / "imgfeat.tsv"
    rows = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(rows[:-1]))
    with pytest.raises(DataError, match=rf"has {len(rows) - 1} rows, imgfeat\.lineidx has {len(rows)}"):
        build(rosita_folder, tmp_path / "out", "rosita-tsv")
    table.write_bytes(b"".join([*rows, rows[0].replace(b"image", b"other", 1)]))
    with pytest.raises(DataError, match=rf"imgfeat\.lineidx has no line {len(rows) + 1}"):
        build(rosita_folder, tmp_path / "out", "rosita-tsv")


def test_a_wrong_row_number_or_name_in_the_map_is_an_error(rosita_folder, tmp_path):
    file = rosita_folder / "img_feat_offset_map.json"
    rows = json.loads(file.read_text())
    first, second, third, *_ = rows
    rows[first], rows[second] = rows[second], rows[first]
    rows["else.jpg"] = rows.pop(third)
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError) as raised:
        build(rosita_folder, tmp_path / "out", "rosita-tsv")
    text = str(raised.value)
    assert f"imgfeat.tsv:1: img_feat_offset_map.json says row 1 for '{first}', it is row 0" in text
    assert f"imgfeat.tsv:3: img_feat_offset_map.json does not name '{third}'" in text


def test_a_side_file_that_is_absent_or_damaged_is_an_error(rosita_folder):
    (rosita_folder / "img_feat_offset_map.json").write_text('{"a.jpg": 0}')
    with pytest.raises(DataError, match=r"img_feat_offset_map\.json names 1 images, .*imgfeat\.lineidx has 6 lines"):
        FORMATS["rosita-tsv"].open(rosita_folder)
    (rosita_folder / "imgfeat.lineidx").write_text("0\nabc\n")
    with pytest.raises(DataError, match=r"imgfeat\.lineidx:2: 'abc' is not an offset"):
        FORMATS["rosita-tsv"].open(rosita_folder)
    for wrong in (b"\xff", b"9" * 6000, "²".encode(), b"-1", b""):
        (rosita_folder / "imgfeat.lineidx").write_bytes(b"0\n" + wrong + b"\n2\n")
        with pytest.raises(DataError, match=r"imgfeat\.lineidx:2: .* is not an offset"):
            FORMATS["rosita-tsv"].open(rosita_folder)
    (rosita_folder / "imgfeat.lineidx").unlink()
    with pytest.raises(DataError, match=r"imgfeat\.lineidx does not exist; it belongs to"):
        FORMATS["rosita-tsv"].open(rosita_folder)


def test_offsets_counted_in_characters_are_accepted(rosita_folder, tmp_path):
    """The original writer counts characters; they differ from bytes after a name that is not ASCII."""
    rows = (rosita_folder / "imgfeat.tsv").read_bytes().decode().splitlines(keepends=True)
    old = rows[0].split("\t")[0]
    rows[0] = rows[0].replace(old, "Zürich.jpg", 1)
    (rosita_folder / "imgfeat.tsv").write_text("".join(rows), encoding="utf-8")
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    (rosita_folder / "imgfeat.lineidx").write_text("\n".join(map(str, starts)))
    names = json.loads((rosita_folder / "img_feat_offset_map.json").read_text())
    numbers = {("Zürich.jpg" if name == old else name): row for name, row in names.items()}
    (rosita_folder / "img_feat_offset_map.json").write_text(json.dumps(numbers), encoding="utf-8")
    assert "Zürich" in build(rosita_folder, tmp_path / "out", "rosita-tsv")


def test_split_files_of_pre_training_are_read_in_numeric_order(rosita_folder):
    rows = (rosita_folder / "imgfeat.tsv").read_bytes().splitlines(keepends=True)
    for number, row in zip((0, 2, 10), rows, strict=False):
        (rosita_folder / f"imgfeat_split{number}.tsv").write_bytes(row)
    (rosita_folder / "imgfeat.tsv").unlink()
    records = FORMATS["rosita-tsv"].open(rosita_folder).records()
    assert [record.image_id for record in records] == ["image-0", "image-1", "image-2"]
