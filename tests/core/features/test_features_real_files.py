"""Feature files as real users have them: in parts, turned, damaged here and there, with other ids or other boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlrun import RegionFeatureStore
from vlrun.cli import main
from vlrun.data.coverage import check_coverage
from vlrun.data.splits import describe_features
from vlrun.errors import DataError, UsageError
from vlrun.features.adapt import read_id_table
from vlrun.features.build import build_store
from vlrun.features.verify import verify_store
from vlrun.features.writer import write_store
from vlrun.plugins.builtin import vlrun_feature_formats

FORMATS = {found.name: found for found in vlrun_feature_formats()}


def write_npz(folder, regions, **changes):
    folder.mkdir(exist_ok=True)
    values = {
        "x": regions.features,
        "bbox": regions.boxes,
        "image_h": regions.height,
        "image_w": regions.width,
    }
    np.savez(folder / f"{regions.image_id}.npz", **{**values, **changes})


def test_numbered_parts_are_parts_and_what_is_not_read_is_named(tmp_path, make_regions, lxmert_row, capsys):
    folder = tmp_path / "trainval"
    folder.mkdir()
    names = ["train.tsv.0", "train.tsv.1", "train.tsv.10", "val.tsv"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(lxmert_row(make_regions(f"image-{number}")))
    for junk in ("._train.tsv.0", ".DS_Store", "Thumbs.db"):
        (folder / junk).write_bytes(b"\x00\x05\x16")
    (folder / "notes.txt").touch()
    (folder / "train.tsv.gz").touch()
    assert main(["features", "build", str(folder), str(tmp_path / "out")]) == 0
    assert "not read: notes.txt, train.tsv.gz" in capsys.readouterr().err
    assert RegionFeatureStore(tmp_path / "out").image_ids() == [f"image-{number}" for number in range(4)]


def test_a_line_of_column_names_is_no_image(tmp_path, lxmert_file):
    names = b"img_id\timg_h\timg_w\tobjects_id\tobjects_conf\tattrs_id\tattrs_conf\tnum_boxes\tboxes\tfeatures\n"
    (tmp_path / "named.tsv").write_bytes(names + lxmert_file.read_bytes())
    assert main(["features", "build", str(tmp_path / "named.tsv"), str(tmp_path / "out")]) == 0
    assert len(RegionFeatureStore(tmp_path / "out")) == 10


def test_junk_beside_npz_files_is_not_read(tmp_path, make_regions):
    write_npz(tmp_path / "npz", make_regions("a"))
    (tmp_path / "npz" / "._a.npz").write_bytes(b"\x00\x05\x16")
    assert len(RegionFeatureStore(build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"]).path)) == 1


def test_turned_features_are_turned_back(tmp_path, make_regions):
    regions = make_regions("a", 5, 8)
    write_npz(tmp_path / "npz", regions, x=regions.features.T)
    out = build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"], dtype="float32").path
    np.testing.assert_array_equal(RegionFeatureStore(out)["a"].features, regions.features)


def test_as_many_columns_as_regions_are_left_as_they_are(tmp_path, make_regions):
    regions = make_regions("a", 8, 8)
    write_npz(tmp_path / "npz", regions)
    out = build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"], dtype="float32").path
    np.testing.assert_array_equal(RegionFeatureStore(out)["a"].features, regions.features)


@pytest.fixture
def with_a_cut_row(tmp_path, make_regions, lxmert_row) -> Path:
    """Image 1 comes cut and then whole, image 2 cut only, image 3 twice."""
    rows = [lxmert_row(make_regions(f"image-{number}")) for number in range(5)]
    cut = [row[:-30] + b"\n" for row in rows]
    file = tmp_path / "obj36.tsv"
    file.write_bytes(rows[0] + cut[1] + rows[1] + cut[2] + rows[3] + rows[3] + rows[4])
    return file


def test_damaged_rows_are_refused_with_a_way_out(with_a_cut_row, tmp_path):
    with pytest.raises(DataError, match="the same command with --skip-damaged leaves such images out"):
        build_store([with_a_cut_row], tmp_path / "out", FORMATS["lxmert-tsv"])


def test_damaged_rows_are_left_out_by_choice_and_a_whole_row_wins(with_a_cut_row, tmp_path, capsys):
    out = tmp_path / "out"
    status = main(["features", "build", str(with_a_cut_row), str(out), "--skip-damaged"])
    assert status == 5
    shown = capsys.readouterr()
    for line in (2, 4):
        assert f"left out: {with_a_cut_row}:{line}: features: " in shown.err
    assert "left out: image 'image-3' comes twice" in shown.err
    assert "3 damaged records" in shown.out
    store = RegionFeatureStore(out)
    assert store.image_ids() == ["image-0", "image-1", "image-3", "image-4"]
    assert store.manifest.skipped == 3
    assert verify_store(out).is_sound


def test_nothing_but_damaged_rows_make_no_store(tmp_path, make_regions, lxmert_row):
    (tmp_path / "obj36.tsv").write_bytes(lxmert_row(make_regions("a"))[:-30] + b"\n")
    with pytest.raises(DataError, match="holds no records"):
        build_store([tmp_path / "obj36.tsv"], tmp_path / "out", FORMATS["lxmert-tsv"], skip_damaged=True)


@pytest.fixture
def normalised(make_regions):
    def make(image_id):
        regions = make_regions(image_id)
        scale = np.array([regions.width, regions.height] * 2, np.float32)
        return replace(regions, boxes=regions.boxes / scale)

    return make


def test_boxes_that_are_parts_of_the_image_are_refused(tmp_path, normalised):
    write_npz(tmp_path / "npz", normalised("a"))
    with pytest.raises(DataError, match=r"all boxes lie between 0 and 1.*--normalised-boxes"):
        build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"])


def test_boxes_that_are_parts_of_the_image_are_multiplied_on_request(tmp_path, make_regions, normalised):
    write_npz(tmp_path / "npz", normalised("a"))
    assert main(["features", "build", str(tmp_path / "npz"), str(tmp_path / "out"), "--normalised-boxes"]) == 0
    np.testing.assert_allclose(RegionFeatureStore(tmp_path / "out")["a"].boxes, make_regions("a").boxes, rtol=1e-5)


def test_boxes_in_pixels_are_not_multiplied(tmp_path, make_regions):
    write_npz(tmp_path / "npz", make_regions("a"))
    with pytest.raises(DataError, match="are no parts of the image; leave --normalised-boxes out"):
        build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"], normalised_boxes=True)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_numbers_become_the_names_that_the_annotations_have(tmp_path, make_regions, capsys, kind):
    for number in ("58350", "000000000042", "7"):
        write_npz(tmp_path / "npz", make_regions(number))
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "val.jsonl"
    names = ["COCO_val2014_000000058350", "COCO_train2014_000000000042"]
    file.write_text("".join(json.dumps({"image": f"{name}.jpg"}) + "\n" for name in names))
    ids = file if kind == "file" else file.parent
    out = tmp_path / "out"
    assert main(["features", "build", str(tmp_path / "npz"), str(out), "--ids", "numbers", str(ids)]) == 0
    store = RegionFeatureStore(out)
    assert store.image_ids() == ["7", *sorted(names)]
    assert store[names[0]].image_id == names[0]
    np.testing.assert_allclose(store[names[0]].boxes, make_regions("58350").boxes)
    assert f"numbers of {ids.name}" in capsys.readouterr().out
    assert describe_features(store).endswith(f", ids: numbers of {ids.name}")


def test_running_numbers_become_file_names(tmp_path, make_regions):
    for number in range(3):
        write_npz(tmp_path / "npz", make_regions(str(number)))
    images = [{"imgid": number, "filename": f"{1000092795 + number}.jpg"} for number in range(3)]
    table = tmp_path / "dataset_flickr30k.json"
    table.write_text(json.dumps({"images": images}))
    out = build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"], ids=read_id_table("karpathy", table)).path
    assert RegionFeatureStore(out).image_ids() == ["1000092795", "1000092796", "1000092797"]
    np.testing.assert_allclose(RegionFeatureStore(out)["1000092795"].boxes, make_regions("0").boxes)


@pytest.mark.parametrize(
    ("kind", "content", "error", "message"),
    [
        ("names", "{}", UsageError, "there are numbers and karpathy"),
        ("numbers", "[1, 2]", DataError, "holds no names of images such as"),
        ("karpathy", "[1, 2]", DataError, "is no dataset_.*json of Karpathy"),
        ("karpathy", '{"images": [{}]}', DataError, "no 'imgid'"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, kind, content, error, message):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(error, match=message):
        read_id_table(kind, tmp_path / "table.json")


@pytest.mark.parametrize(
    ("stored", "needed", "hint"),
    [
        (["391895"], ["COCO_val2014_000000391895"], "runner features build ... --ids numbers ANNOTATIONS"),
        (
            ["0", "1"],
            ["1000092795"],
            "the store has ids such as 0, 1; the data need 1000092795. If these are Karpathy's",
        ),
        (["a", "b"], ["c"], "the store has ids such as a, b; the data need c."),
    ],
)
def test_a_run_that_finds_no_image_says_what_helps(tmp_path, make_regions, stored, needed, hint):
    write_store(tmp_path / "out", [make_regions(image_id) for image_id in stored])
    assert hint in check_coverage({"val": needed}, RegionFeatureStore(tmp_path / "out")).error().problems[-1]
