from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from vlrun.cli import main
from vlrun.errors import DataError
from vlrun.features import writer
from vlrun.features.verify import verify_store
from vlrun.features.writer import write_store


@pytest.fixture
def large_store(tmp_path, make_regions):
    """Records of several pages each, as real ones have."""
    path = tmp_path / "large"
    write_store(path, [make_regions(f"image-{i}", 8, 1024) for i in range(20)])
    return path


def test_a_sound_store_passes(store_path, capsys):
    assert main(["features", "verify", str(store_path)]) == 0
    assert capsys.readouterr().out == f"{store_path}: 12 images, no problems\n"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9, 0.999])
def test_a_truncated_copy_fails(large_store, tmp_path, capsys, share):
    content = (large_store / "data.mdb").read_bytes()
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(content[: int(len(content) * share)])
    assert main(["features", "verify", str(copy)]) == 5
    assert "truncated" in capsys.readouterr().out


@pytest.mark.parametrize("offset", [6, 20, 30, 40, 200, 5000])
def test_a_flipped_bit_in_a_record_fails(large_store, capsys, offset):
    """In the header, the sizes, the checksum, a box and the features."""
    content = bytearray((large_store / "data.mdb").read_bytes())
    content[content.index(b"VLRF", len(content) // 2) + offset] ^= 0x10
    (large_store / "data.mdb").write_bytes(content)
    assert main(["features", "verify", str(large_store), "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert any(problem["image_id"] and problem["image_id"].startswith("image-") for problem in found["problems"])


@pytest.mark.parametrize("seed", range(12))
def test_damaged_pages_fail_and_do_not_crash(large_store, seed):
    """Random bytes over random places: LMDB itself notices few of them, and may crash over some."""
    rng = np.random.default_rng(seed)
    content = bytearray((large_store / "data.mdb").read_bytes())
    start = int(rng.integers(2 * 4096, len(content) - 8192))
    content[start : start + 8192] = rng.bytes(8192)
    (large_store / "data.mdb").write_bytes(content)
    assert not verify_store(large_store).is_sound


def test_damage_that_kills_the_reading_process_is_reported(store_path):
    """LMDB trusts the offsets in a page, here into the pages after the end of the file."""
    content = bytearray((store_path / "data.mdb").read_bytes())
    for page in range(2 * 4096, len(content), 4096):
        flags, end_of_offsets = struct.unpack_from("<HH", content, page + 10)
        if flags & 2:  # a leaf
            content[page + 16 : page + end_of_offsets] = b"\xf0\xff" * ((end_of_offsets - 16) // 2)
    (store_path / "data.mdb").write_bytes(content)
    script = "import sys; from vlrun.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "features", "verify", str(store_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "reading it crashed (SIGBUS): the file is damaged" in done.stdout + done.stderr) == (
        5,
        True,
    )
    assert "Traceback" not in done.stderr


def test_modules_in_the_working_directory_do_not_matter(store_path, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('not numpy')")
    monkeypatch.chdir(tmp_path)
    assert verify_store(store_path).is_sound


def test_the_process_that_reads_tells_how_far_it_is(store_path):
    told = []
    assert verify_store(store_path, lambda *report: told.append(report)).is_sound
    assert told[0] == ("verifying images", 0, 12)  # the manifest comes first


def test_what_the_checksum_cannot_see_is_found(tmp_path, make_regions, monkeypatch):
    monkeypatch.setattr(writer, "find_problems", lambda regions: [])  # a writer that does not look
    records = [
        make_regions("inside-out", boxes=np.full((5, 4), [9, 9, 3, 20], np.float32)),
        make_regions("nan", features=np.full((5, 8), np.nan, np.float32)),
        make_regions("outside", boxes=np.full((5, 4), [0, 0, 700, 20], np.float32)),
        make_regions("sound"),
    ]
    write_store(tmp_path / "out", records)
    assert [str(problem) for problem in verify_store(tmp_path / "out").problems] == [
        "image 'inside-out': box 0 (9.0, 9.0, 3.0, 20.0) ends before it begins",
        "image 'nan': 40 of 40 values of features are NaN or infinite",
        "image 'outside': box 0 (0.0, 0.0, 700.0, 20.0) leaves the image of height 480 and width 640",
    ]


def test_a_manifest_that_does_not_fit_is_found(store_path):
    import lmdb

    with lmdb.open(str(store_path), lock=False, map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.delete(b"COCO_val2014_000000000003")
    texts = [problem.text for problem in verify_store(store_path).problems]
    assert texts == ["11 images, the manifest promises 12", "the list of ids differs from the images"]


def test_it_counts_all_problems_and_lists_the_first(tmp_path, make_regions, monkeypatch):
    monkeypatch.setattr(writer, "find_problems", lambda regions: [])
    bad = np.full((5, 8), np.inf, np.float32)
    write_store(tmp_path / "out", [make_regions(f"image-{i}", features=bad) for i in range(30)])
    found = verify_store(tmp_path / "out")
    assert (found.num_problems, len(found.problems), found.count) == (30, 20, 30)


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(DataError, match="there is no region-feature store"):
        verify_store(tmp_path / "absent")
