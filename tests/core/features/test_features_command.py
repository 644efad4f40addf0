"""``runner features`` as a user sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO

import pytest

from vlrun.cli import main
from vlrun.features import progress
from vlrun.features.progress import Progress, in_words


def test_build_recognises_the_format_and_says_so(lxmert_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["features", "build", str(lxmert_file), str(out), "--extractor", "BUTD R101"]) == 0
    captured = capsys.readouterr()
    assert f"reading {lxmert_file} as --from lxmert-tsv" in captured.err
    assert captured.out.startswith(f"built {out}\n")
    assert "10 images of 5 regions" in captured.out
    assert "BUTD R101" in captured.out
    assert main(["features", "build", str(lxmert_file), str(out), "--extractor", "BUTD R101"]) == 0
    assert capsys.readouterr().out.startswith(f"up to date: {out}\n")


def test_build_takes_several_sources_and_expected_ids(lxmert_file, tmp_path, make_regions, lxmert_row, capsys):
    more = tmp_path / "more.tsv"
    more.write_bytes(lxmert_row(make_regions("another")))
    (tmp_path / "ids.txt").write_text("image-1.jpg\nanother\n\n")
    arguments = ["features", "build", "--from", "lxmert-tsv", "--expect-ids", str(tmp_path / "ids.txt")]
    assert main([*arguments, str(lxmert_file), str(more), str(tmp_path / "out")]) == 0
    (tmp_path / "ids.txt").write_text("image-1\nimage-99\n")
    assert main([*arguments, str(lxmert_file), str(tmp_path / "other")]) == 5
    assert "1 expected images are missing from the source, among them:\n    image-99\n" in capsys.readouterr().err


def test_a_damaged_source_exits_with_status_five(lxmert_file, tmp_path, capsys):
    lxmert_file.write_bytes(lxmert_file.read_bytes()[:-30])
    assert main(["features", "build", str(lxmert_file), str(tmp_path / "out")]) == 5
    assert f"{lxmert_file}:10: features: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_suggests_the_near_one(lxmert_file, tmp_path, capsys):
    assert main(["features", "build", "--from", "lxmert", str(lxmert_file), str(tmp_path / "out")]) == 4
    assert "no feature format 'lxmert' is installed" in capsys.readouterr().err


def test_inspect_prints_the_manifest_as_text_and_as_json(store_path, capsys):
    assert main(["features", "inspect", str(store_path / "data.mdb")]) == 0
    text = capsys.readouterr().out
    assert "12 images of 2 to 5 regions" in text
    assert "COCO_val2014_000000000000, " in text
    assert main(["features", "inspect", str(store_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["count"], content["feature_width"], content["dtype"]) == (12, 8, "float16")
    assert content["fingerprint"] in text


def test_inspect_shows_one_image(store_path, capsys):
    arguments = ["features", "inspect", str(store_path), "--image", "COCO_val2014_000000000002"]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["height"], content["width"], content["num_regions"]) == (480, 640, 4)
    assert len(content["boxes"]) == len(content["class_ids"]) == 4
    assert main(arguments) == 0
    assert "num_regions    4" in capsys.readouterr().out
    assert main(["features", "inspect", str(store_path), "--image", "2"]) == 5
    assert "did you mean 'COCO_val2014_000000000002'?" in capsys.readouterr().err


def test_a_wrong_path_exits_with_status_five(tmp_path, capsys):
    assert main(["features", "inspect", str(tmp_path / "absent")]) == 5
    assert "there is no region-feature store" in capsys.readouterr().err


def test_nothing_of_it_imports_torch(store_path):
    script = (
        "import sys; from vlrun.cli import main\n"
        f"assert main(['features', 'inspect', {str(store_path)!r}]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_prints_a_plain_line_every_five_seconds_at_most(clock):
    stream = StringIO()
    bar = Progress("features", stream=stream)
    for second in range(1, 12):
        clock[0] = second
        bar.update(100 * second, second / 100)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "features: 500 images, 5%, 100/s, 1 min 35 s left",
        "features: 1,000 images, 10%, 100/s, 1 min 30 s left",
    ]


def test_progress_of_a_continued_build_counts_only_its_own_work(clock):
    stream = StringIO()
    bar = Progress("features", 9_000, 0.9, stream)
    clock[0] = 10.0
    bar.update(9_500, 0.95)
    assert stream.getvalue() == "features: 9,500 images, 95%, 50/s, 10 s left\n"


def test_durations_in_words():
    assert [in_words(seconds) for seconds in (9.6, 75, 3725)] == ["10 s", "1 min 15 s", "1 h 2 min"]
