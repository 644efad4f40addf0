"""``runner features`` as a user sees it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from vlrun.cli import main
from vlrun.reporting import progress


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
    (tmp_path / "ids.txt").write_text("image-1.jpg\nanother\n\n", encoding="utf-8-sig")  # as Windows writes it
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


def test_progress_goes_to_standard_error_and_results_to_standard_output(lxmert_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    assert main(["features", "build", str(lxmert_file), str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^importing images \(total estimated\): \d+ of 10, .*/s, .* left$", captured.err, re.MULTILINE)
    assert "importing" not in captured.out
