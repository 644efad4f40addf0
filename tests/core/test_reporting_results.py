"""Numbers beside published ones, and marks where protocols differ."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vlrun.cli import main
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, ResultRow, RunInfo
from vlrun.reporting.jsonl import JsonLinesReporter
from vlrun.reporting.results import compare_protocols, result_table, value_text

SHA = "0123456789abcdef" * 4


def row(
    split: str = "val",
    name: str = "accuracy",
    value: float = 76.5,
    published: float | None = None,
    task: str = "rec",
    unit: str = "%",
    **protocol: Any,
) -> ResultRow:
    score = Score(name, value, unit, protocol={"split": split, **protocol}, primary=name == "accuracy")
    return ResultRow(task, split, score, published, "Cui et al. 2021" if published else "")


def test_a_protocol_that_all_rows_share_is_said_once() -> None:
    lines = result_table([row("val", iou="plus_one"), row("testA", iou="plus_one")], is_demo=False).as_lines()
    assert lines[-1] == "Protocol of all results: iou plus_one"
    assert "[" not in "\n".join(lines)


def test_what_a_split_or_a_score_always_comes_with_is_said_of_it_without_marks() -> None:
    rows = [
        row("val", "accuracy", file="val.jsonl", box="predicted"),
        row("val", "oracle", file="val.jsonl", box="best"),
        row("testA", "accuracy", file="testA.jsonl", box="predicted"),
        row("testA", "oracle", file="testA.jsonl", box="best"),
    ]
    assert result_table(rows, is_demo=False).footnotes == [
        "val: file val.jsonl",
        "testA: file testA.jsonl",
        "accuracy: box predicted",
        "oracle: box best",
    ]


def test_splits_that_say_the_same_say_it_together() -> None:
    rows = [row("val", pool="small"), row("testA", pool="large"), row("testB", pool="large")]
    assert result_table(rows, is_demo=False).footnotes == ["val: pool small", "testA, testB: pool large"]


def test_the_same_split_and_score_under_two_protocols_is_marked() -> None:
    rows = [row(value=86.0, boxes="annotated"), row(value=99.6, boxes="detected"), row(value=86.1, boxes="annotated")]
    table = result_table(rows, is_demo=False)
    assert [cells[2] for cells in table.rows] == ["86.00 % [1]", "99.60 % [2]", "86.10 % [1]"]
    assert table.footnotes == ["[1] boxes annotated", "[2] boxes detected"]


def test_a_protocol_item_that_one_row_lacks_is_a_difference() -> None:
    protocols = compare_protocols([row(), row(left_out="3 examples")])
    assert protocols.marks == [None, 1]
    assert protocols.notes == [{"left_out": "3 examples"}]


def test_order_and_kind_of_numbers_in_a_protocol_do_not_matter_but_their_value_does() -> None:
    same = compare_protocols([row(pool={"images": 1000, "texts": 5000}), row(pool={"texts": 5000, "images": 1000})])
    other = compare_protocols([row(pool=1000), row(pool=5000)])
    assert same.marks == [None, None]
    assert other.marks == [1, 2]


def test_two_tasks_with_splits_of_one_name_are_told_apart() -> None:
    rows = [row("val", task="vqa", file="a"), row("val", task="gqa", file="b")]
    assert result_table(rows, is_demo=False).footnotes == ["vqa val: file a", "gqa val: file b"]


def test_the_difference_has_a_sign_and_unpublished_rows_have_a_dash() -> None:
    rows = [row(value=76.31, published=76.06), row("testA", value=81.8, published=82.01), row("testB")]
    table = result_table(rows, is_demo=False)
    assert table.headers == ["split", "score", "result", "published", "difference"]
    assert [cells[3:] for cells in table.rows] == [["76.06 %", "+0.25"], ["82.01 %", "-0.21"], ["-", "-"]]
    assert table.footnotes[-1] == "Published numbers: Cui et al. 2021"


def test_scores_without_unit_keep_four_digits() -> None:
    assert result_table([row(value=0.123456, unit="")], is_demo=False).rows == [["val", "accuracy", "0.1235"]]


def test_beside_a_demo_run_published_numbers_say_that_they_are_of_real_data() -> None:
    table = result_table([row(published=76.06)], is_demo=True)
    assert table.headers == ["split", "score", "result", "published"]
    assert table.rows[0][-1] == "76.06 % (real data)"
    assert "not comparable with published ones" in table.footnotes[-1]


def test_hashes_are_cut_where_space_is_short_and_whole_elsewhere() -> None:
    assert value_text(f"val.jsonl {SHA}", shorten=True) == "val.jsonl 0123456789ab"
    assert value_text(f"val.jsonl {SHA}") == f"val.jsonl {SHA}"


def make_run(
    folder: Path, accuracy: float = 81.8, final: bool = True, demo: bool = False, status: str = "done", **protocol: Any
) -> Path:
    """A run folder as a training leaves it."""
    reporter = JsonLinesReporter()
    reporter.start(RunInfo("toy", folder, [], 10, 5, 2))
    score = Score("accuracy", accuracy, count=7, protocol={"split": "testA", **protocol}, primary=True)
    reporter.evaluation(EvaluationReport("rec", "testA", 5, 1, [score], 1.0, 7))
    if final:
        reporter.evaluation(EvaluationReport("rec", "testA", 10, 2, [score], 1.0, 7, final=True))
    reporter.finish(Outcome("done", ""))
    reporter.close()
    (folder / "config.yaml").write_text(
        "name: toy\npublished:\n  source: 'Cui et al. 2021'\n"
        "  results:\n  - {task: rec, split: testA, name: accuracy, value: 82.01}\n"
    )
    content = {"status": status, "message": "", "experiment": "toy", "demo": demo, "step": 10, "total_steps": 10}
    (folder / "status.json").write_text(json.dumps(content))
    return folder


def test_report_prints_one_table_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "toy" / "20260101-a", iou="plus_one")
    make_run(tmp_path / "toy" / "20260102-b", accuracy=82.5, iou="plus_one")
    (tmp_path / "toy" / "latest").symlink_to("20260102-b")
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run         experiment  task  split  score      result  published  difference",
        "----------  ----------  ----  -----  --------  -------  ---------  ----------",
        "20260101-a  toy         rec   testA  accuracy  81.80 %    82.01 %       -0.21",
        "20260102-b  toy         rec   testA  accuracy  82.50 %    82.01 %       +0.49",
        "Protocol of all results: iou plus_one",
        "Published numbers: Cui et al. 2021",
    ]


def test_report_marks_runs_whose_protocols_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", iou="plus_one")
    make_run(tmp_path / "b", iou="official")
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("81.80 % [1]") == printed.count("81.80 % [2]") == 1
    assert "[1] iou plus_one\n[2] iou official\n" in printed


def test_report_marks_demo_runs_and_compares_them_with_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", demo=True)
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "a (demo)" in printed
    assert "82.01 % (real data)           -" in printed
    assert "not comparable with published ones" in printed


def test_report_says_how_far_an_unfinished_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", final=False, status="stopped")
    assert main(["report", str(tmp_path)]) == 0
    assert "stopped at step 10 of 10" in capsys.readouterr().out


def test_report_reads_damaged_folders_as_far_as_possible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "toy" / "a")
    (folder / "status.json").write_text('{"status": "do')
    (folder / "config.yaml").write_text("name: [unclosed")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "res')
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "81.80 %" in printed
    assert "a: unknown" in printed


def test_report_json_has_whole_protocols_and_nothing_else_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "a", annotations_sha256=SHA)
    assert main(["report", str(tmp_path), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["run"], run["experiment"], run["status"], run["demo"]) == (str(folder), "toy", "done", False)
    (result,) = run["results"]
    assert result["protocol"]["annotations_sha256"] == SHA
    assert (result["value"], result["published"], result["published_source"]) == (81.8, 82.01, "Cui et al. 2021")
    assert result["difference"] == pytest.approx(-0.21)


def test_report_html_writes_the_page_of_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    assert main(["report", str(tmp_path), "--html"]) == 0
    assert f"wrote {folder / 'report.html'}" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "82.01 %" in page
    assert "Training" not in page  # no steps, no empty chart


def test_report_without_folders_looks_where_runs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "toy" / "a")
    monkeypatch.setenv("VLRUN_RUNS", str(tmp_path))
    assert main(["report"]) == 0
    assert "81.80 %" in capsys.readouterr().out


@pytest.mark.parametrize(("exists", "status", "word"), [(False, 2, "there is no folder"), (True, 5, "holds no run")])
def test_report_says_which_folder_holds_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exists: bool, status: int, word: str
) -> None:
    folder = tmp_path / "nowhere"
    if exists:
        folder.mkdir()
    assert main(["report", os.fspath(folder)]) == status
    captured = capsys.readouterr()
    assert f"{folder}" in captured.err
    assert word in captured.err
