"""Building a store: complete or not at all, and resumable."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlrun import RegionFeatureStore
from vlrun.errors import DataError, UsageError
from vlrun.features import writer
from vlrun.features.build import build_store, detect_format
from vlrun.features.origin import FeatureOrigin
from vlrun.features.writer import StoreWriter, write_store
from vlrun.plugins.builtin import vlrun_feature_formats

FORMATS = {found.name: found for found in vlrun_feature_formats()}
LXMERT = FORMATS["lxmert-tsv"]

KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from vlrun.features import build, writer
from vlrun.plugins.builtin import vlrun_feature_formats

writer._COMMIT_BYTES = 500  # a commit every few records
build._READ_AHEAD = 1
class Killed(build._Sources):
    def records(self, position=()):
        for number, record in enumerate(super().records(position)):
            if number == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            yield record
build._Sources = Killed
lxmert = next(found for found in vlrun_feature_formats() if found.name == "lxmert-tsv")
build.build_store([Path(sys.argv[1])], Path(sys.argv[2]), lxmert)
"""


def test_a_killed_build_leaves_no_store_and_continues_to_the_same_content(lxmert_file, tmp_path):
    whole = build_store([lxmert_file], tmp_path / "whole", LXMERT)
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED_BUILD, lxmert_file, out], check=False)
    assert killed.returncode == -9
    assert not out.exists()
    with pytest.raises(DataError, match=r"out\.partial is an unfinished build; repeat the `runner features build`"):
        RegionFeatureStore(out)
    with pytest.raises(DataError, match=r"is an unfinished build: repeat"):
        len(RegionFeatureStore(tmp_path / "out.partial"))

    said = []
    built = build_store([lxmert_file], out, LXMERT, say=said.append)
    assert len(said) == 1
    assert said[0] in {f"continuing a build that stopped after {n} images" for n in range(1, 8)}
    assert built.manifest.fingerprint == whole.manifest.fingerprint
    assert [path.name for path in out.iterdir()] == ["data.mdb"]
    assert not (tmp_path / "out.partial").exists()


def test_a_build_says_after_each_image_how_far_it_is(lxmert_file, tmp_path):
    told = []
    build_store([lxmert_file], tmp_path / "out", LXMERT, progress=lambda *report: told.append(report))
    assert [done for _, done, _ in told] == list(range(1, 11))
    assert told[-1] == ("importing images (total estimated)", 10, 10)


def test_a_continued_build_counts_what_was_there(lxmert_file, tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_BUILD, lxmert_file, tmp_path / "out"], check=False)
    told = []
    build_store([lxmert_file], tmp_path / "out", LXMERT, progress=lambda *report: told.append(report))
    assert told[0][1] > 1
    assert told[-1][1:] == (10, 10)


def test_a_build_from_other_options_starts_anew_and_says_so(lxmert_file, tmp_path):
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", KILLED_BUILD, lxmert_file, out], check=False)
    said = []
    built = build_store([lxmert_file], out, LXMERT, dtype="float32", say=said.append)
    assert "was begun from other files or options" in said[0]
    assert built.manifest.dtype == "float32"
    assert built.manifest.count == 10


def test_two_builds_of_one_store_at_a_time_are_refused(tmp_path):
    with (
        StoreWriter(tmp_path / "out", dtype="float16", signature="a"),
        pytest.raises(DataError, match=r"another process is building in .*out\.partial"),
    ):
        StoreWriter(tmp_path / "out", dtype="float16", signature="a")


def test_the_same_build_again_is_up_to_date_and_another_is_refused(lxmert_file, tmp_path):
    out = tmp_path / "out"
    first = build_store([lxmert_file], out, LXMERT)
    again = build_store([lxmert_file], out, LXMERT)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.manifest == first.manifest
    with pytest.raises(DataError, match=r"out exists and holds something else; .* --overwrite"):
        build_store([lxmert_file], out, LXMERT, dtype="float32")
    assert build_store([lxmert_file], out, LXMERT, dtype="float32", overwrite=True).manifest.dtype == "float32"
    assert RegionFeatureStore(out).manifest.dtype == "float32"


def test_overwrite_does_not_remove_what_is_no_store(lxmert_file, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"home is not a region-feature store: it holds thesis\.tex"):
        build_store([lxmert_file], tmp_path / "home", LXMERT, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_the_manifest_says_what_was_built(lxmert_file, tmp_path):
    manifest = build_store([lxmert_file], tmp_path / "out", LXMERT, origin=FeatureOrigin("BUTD R101")).manifest
    assert (manifest.count, manifest.min_regions, manifest.max_regions, manifest.feature_width) == (10, 5, 5, 8)
    assert (manifest.extractor, manifest.source_format, manifest.source) == ("BUTD R101", "lxmert-tsv", "obj36.tsv")
    assert (manifest.box_format, manifest.dtype) == ("xyxy pixels", "float16")


def test_the_fingerprint_depends_on_content_and_not_on_order(tmp_path, make_regions):
    a, b = make_regions("a"), make_regions("b")
    first = write_store(tmp_path / "1", [a, b], extractor="x")
    second = write_store(tmp_path / "2", [b, a], extractor="y")
    other = write_store(tmp_path / "3", [a, make_regions("b", seed=1)])
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_several_sources_are_joined(tmp_path, make_regions, lxmert_row, lxmert_file):
    more = tmp_path / "more.tsv"
    more.write_bytes(lxmert_row(make_regions("another")))
    built = build_store([lxmert_file, more], tmp_path / "out", LXMERT)
    assert built.manifest.count == 11
    assert built.manifest.source == "obj36.tsv, more.tsv"


def test_an_image_that_comes_twice_is_named_with_both_places(tmp_path, make_regions, lxmert_row, lxmert_file):
    more = tmp_path / "more.tsv"
    more.write_bytes(lxmert_row(make_regions("another")) + lxmert_row(make_regions("val2014/image-3.jpg")))
    with pytest.raises(DataError, match=r"image 'image-3' comes twice: .*obj36\.tsv:4 and .*more\.tsv:2"):
        build_store([lxmert_file, more], tmp_path / "out", LXMERT)
    assert not (tmp_path / "out").exists()


def test_records_that_come_twice_are_refused_by_name(tmp_path, make_regions):
    with pytest.raises(DataError, match="image 'a': it comes twice"):
        write_store(tmp_path / "out", [make_regions("a"), make_regions("a")])


def test_all_damaged_records_are_listed_and_nothing_is_built(lxmert_file, tmp_path):
    rows = lxmert_file.read_bytes().splitlines(keepends=True)
    rows[2] = rows[2].replace(b"\t5\t", b"\t6\t")
    rows[5] = rows[5][:400] + b"\n"
    lxmert_file.write_bytes(b"".join(rows))
    with pytest.raises(DataError) as raised:
        build_store([lxmert_file], tmp_path / "out", LXMERT)
    assert [problem.split(": ")[0] for problem in raised.value.problems[:2]] == [f"{lxmert_file}:3", f"{lxmert_file}:6"]
    assert raised.value.problems[-1] == f"{tmp_path / 'out'} was not built"
    assert [path.name for path in tmp_path.iterdir()] == ["obj36.tsv"]


def test_it_stops_after_twenty_problems(tmp_path):
    (tmp_path / "bad.tsv").write_bytes(b"no tabs here\n" * 30)
    with pytest.raises(DataError) as raised:
        build_store([tmp_path / "bad.tsv"], tmp_path / "out", LXMERT)
    assert len(raised.value.problems) == 23
    assert raised.value.problems[20] == "stopped after 20 problems"


def test_missing_expected_images_are_listed_and_the_work_is_kept(lxmert_file, tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)2 expected images are missing .*image-77\n +image-78\n.*without --expect-ids"
    ):
        build_store([lxmert_file], tmp_path / "out", LXMERT, expected_ids=["image-1", "image-77", "image-78"])
    assert not (tmp_path / "out").exists()
    said = []
    assert build_store([lxmert_file], tmp_path / "out", LXMERT, say=said.append).manifest.count == 10
    assert said == ["continuing a build that stopped after 10 images"]
    with pytest.raises(
        DataError, match=r"(?s)1 expected images are missing .*out was built before, from the same files"
    ):
        build_store([lxmert_file], tmp_path / "out", LXMERT, expected_ids=["image-1", "image-77"])


def test_an_empty_source_is_an_error(tmp_path):
    (tmp_path / "empty.tsv").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.tsv holds no records"):
        build_store([tmp_path / "empty.tsv"], tmp_path / "out", LXMERT)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"features": np.full((5, 8), np.nan, np.float32)}, "40 of 40 values of features are NaN or infinite"),
        ({"features": np.full((5, 8), 7e4, np.float32)}, r"up to 70000 do not fit float16 .* --dtype float32"),
        ({"features": np.zeros((5, 8, 1), np.float32)}, r"features of shape \(5, 8, 1\)"),
        ({"boxes": np.zeros((4, 4), np.float32)}, r"boxes of shape \(4, 4\) do not fit 5 regions"),
        ({"boxes": np.full((5, 4), [9, 9, 3, 20], np.float32)}, r"box 0 \(9.0, 9.0, 3.0, 20.0\) ends before it begins"),
        ({"boxes": np.full((5, 4), [0, 0, 642, 20], np.float32)}, "leaves the image of height 480 and width 640$"),
        (
            {"boxes": np.full((5, 4), [0, 0, 640, 480], np.float32), "height": 640, "width": 480},
            "leaves the image of height 640 and width 480; with height and width exchanged all boxes would fit",
        ),
        ({"class_ids": np.zeros(4, np.int32)}, r"class_ids of shape \(4,\) do not fit 5 regions"),
        ({"height": 0}, r"image size 0 x 640"),
    ],
)
def test_what_cannot_be_region_features_is_refused(tmp_path, make_regions, changes, problem):
    with pytest.raises(DataError, match=rf"image 'a': .*{problem}"):
        write_store(tmp_path / "out", [make_regions("a", **changes)])
    assert not list(tmp_path.iterdir())


def test_a_box_may_leave_the_image_by_a_pixel(tmp_path, make_regions):
    boxes = np.full((5, 4), [-1, 0, 641, 480.5], np.float32)
    write_store(tmp_path / "out", [make_regions("a", boxes=boxes)])
    assert np.array_equal(RegionFeatureStore(tmp_path / "out")["a"].boxes, boxes)


def test_images_of_another_feature_width_are_refused(tmp_path, make_regions):
    with pytest.raises(DataError, match=r"image 'b': features of width 9; the images before have width 8"):
        write_store(tmp_path / "out", [make_regions("a"), make_regions("b", feature_width=9)])


@pytest.mark.parametrize("image_id", ["", "a\nb", "\x00manifest", "x" * 512, "a\udcff", "\ud800"])
def test_ids_that_cannot_be_keys_are_refused(tmp_path, make_regions, image_id):
    with pytest.raises(DataError, match="cannot be an image id"):
        write_store(tmp_path / "out", [replace(make_regions("a"), image_id=image_id)])


def test_names_of_files_that_are_not_utf8_or_break_lines_are_named(tmp_path, make_regions):
    (tmp_path / "npz").mkdir()
    arrays = {"x": np.ones((1, 4), "f4"), "bbox": np.array([[0, 0, 8, 8.0]]), "image_h": 9, "image_w": 9, "num_bbox": 1}
    names = [b"a.npz", b"b\xff.npz", b"c\nd.npz"]
    for name in names:
        np.savez(tmp_path / "npz" / os.fsdecode(name), **arrays)
    with pytest.raises(DataError) as caught:
        build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"])
    assert str(caught.value).count("cannot be an image id") == 2
    for name in names[1:]:
        os.unlink(os.fsencode(tmp_path / "npz") + b"/" + name)
    assert build_store([tmp_path / "npz"], tmp_path / "out", FORMATS["npz"]).manifest.count == 1


def test_the_file_has_the_size_of_its_content(tmp_path, make_regions, monkeypatch):
    monkeypatch.setattr(writer, "_COMMIT_BYTES", 1 << 20)  # many commits, which leave freed pages behind
    records = [make_regions(f"image-{i}", 36, 2048) for i in range(60)]
    write_store(tmp_path / "out", records)
    payload = sum(r.features.size * 2 + r.boxes.nbytes + r.class_ids.nbytes * 4 for r in records)
    status = (tmp_path / "out" / "data.mdb").stat()
    assert status.st_size <= 1.1 * payload
    assert status.st_blocks * 512 >= payload


def test_memory_does_not_grow_with_the_source(tmp_path, make_regions, lxmert_row):
    row = lxmert_row(make_regions("image-000", 36, 2048))
    with (tmp_path / "large.tsv").open("wb") as file:
        for number in range(400):  # 160 MB
            file.write(row.replace(b"image-000", b"image-%03d" % number, 1))
    tracemalloc.start()
    built = build_store([tmp_path / "large.tsv"], tmp_path / "out", LXMERT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert built.manifest.count == 400
    assert peak < 30e6


@pytest.mark.parametrize(
    ("path", "expected"),
    [("features/lxmert_tsv", "lxmert-tsv"), ("features/rosita_demo_npz", "npz")],
)
@pytest.mark.samples
def test_the_format_of_real_files_is_recognised(samples, path, expected):
    assert detect_format([samples / path], FORMATS).name == expected


def test_an_ambiguous_unknown_or_absent_source_is_explained(rosita_folder, tmp_path):
    (rosita_folder / "npz_files").mkdir()
    (rosita_folder / "npz_files" / "a.npz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"can be read as --from npz or as --from rosita-tsv: say which"):
        detect_format([rosita_folder], FORMATS)
    assert detect_format([rosita_folder / "npz_files"], FORMATS).name == "npz"
    with pytest.raises(UsageError, match=r"no format recognises it\. There are\n    --from npz: folder of \.npz"):
        detect_format([tmp_path], FORMATS)
    (rosita_folder / "npz_files" / "a.npz").unlink()
    assert detect_format([rosita_folder], FORMATS).name == "rosita-tsv"
    with pytest.raises(DataError, match=r"absent does not exist"):
        detect_format([Path("absent")], FORMATS)
