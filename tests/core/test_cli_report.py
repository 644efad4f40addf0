"""``runner report``: runs side by side, what differs between them, and those that came to nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlrun.cli import main
from vlrun.engine.run_folder import open_run_folder
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, RunInfo
from vlrun.reporting.jsonl import JsonLinesReporter

SHA = "0123456789abcdef" * 4
RESULTS = [{"task": "rec", "split": "testA", "name": "accuracy", "value": 82.01, "examples": 7}]
TASK = {"name": "rec", "dataset": {"name": "refcoco", "evaluate": ["testA"], "annotations": "/data/annotations/unc"}}


def make_run(
    folder: Path,
    accuracy: float = 81.8,
    *,
    final: bool = True,
    demo: bool = False,
    status: str = "done",
    message: str = "",
    experiment: str = "toy",
    split: str = "testA",
    config: dict[str, Any] | None = None,
    **protocol: Any,
) -> Path:
    """A run folder as a training leaves it."""
    reporter = JsonLinesReporter()
    reporter.start(RunInfo(experiment, folder, [], 10, 5, 2))
    score = Score("accuracy", accuracy, count=7, protocol={"split": split, **protocol}, primary=True)
    reporter.evaluation(EvaluationReport("rec", split, 5, 1, [score], 1.0, 7))
    if final:
        reporter.evaluation(EvaluationReport("rec", split, 10, 2, [score], 1.0, 7, final=True))
    reporter.finish(Outcome("done", ""))
    reporter.close()
    published = {"source": "Cui et al. 2021", "recipe": {"backbone.size": "base"}, "results": RESULTS}
    options = {
        "name": experiment,
        "data_root": "/data",
        "backbone": {"name": "rosita", "size": "base"},
        "tasks": [TASK],
        "train": {"epochs": 2, "workers": 1},
        "published": published,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**options, **(config or {})}))
    content = {"status": status, "message": message, "experiment": experiment, "demo": demo}
    (folder / "status.json").write_text(json.dumps({**content, "step": 10, "total_steps": 10}))
    return folder


def tiny(**train: Any) -> dict[str, Any]:
    return {"backbone": {"name": "rosita", "size": "tiny"}, "train": {"epochs": 2, "workers": 2, **train}}


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["report", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_runs_of_one_task_and_dataset_stand_under_one_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "toy" / "20260101-a", iou="plus_one", checkpoint="best on val (step 5)")
    make_run(tmp_path / "toy" / "20260102-b", accuracy=82.5, iou="plus_one", checkpoint="best on val (step 10)")
    (tmp_path / "toy" / "latest").symlink_to("20260102-b")
    assert lines_of(capsys, tmp_path) == [
        "rec on refcoco:",
        "",
        "no.  run         experiment  backbone  checkpoint",
        "---  ----------  ----------  --------  ---------------------",
        "  1  20260101-a  toy         rosita    best on val (step 5)",
        "  2  20260102-b  toy         rosita    best on val (step 10)",
        "",
        "split  score     no.   result  examples  published  difference",
        "-----  --------  ---  -------  --------  ---------  ----------",
        "testA  accuracy    1  81.80 %         7    82.01 %       -0.21",
        "testA  accuracy    2  82.50 %         7    82.01 %       +0.49",
        "Protocol of all results: iou plus_one",
        "Published numbers: Cui et al. 2021",
    ]


def differences(lines: list[str]) -> list[str]:
    """What the table of runs says under "differs in"."""
    header = next(line for line in lines if line.startswith("no. "))
    start, at = header.find("differs in"), lines.index(header)
    return [line[start:] for line in lines[at + 2 : lines.index("", at)]] if start > 0 else []


def test_a_run_says_in_which_options_it_differs_and_is_not_compared_with_what_is_published_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config=tiny())
    make_run(tmp_path / "c", config=tiny(epochs=1))
    lines = lines_of(capsys, tmp_path)
    # workers change no number
    assert differences(lines) == ["size base, epochs 2", "size tiny, epochs 2", "size tiny, epochs 1"]
    results = [line for line in lines if line.startswith("testA")]
    assert [line.split()[-1] for line in results] == ["-0.21", "comparable", "comparable"]
    assert "Not comparable with the published numbers: backbone.size tiny instead of base" in lines


def test_of_many_differences_the_first_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config={"train": {f"o{number}": number for number in range(10)}})
    assert differences(lines_of(capsys, tmp_path))[1].endswith(", o6 6, o7 7, and 3 more (--json)")


def test_only_runs_with_the_same_backbone_are_asked_for_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config={"backbone": {"name": "lxmert", "layers": 9}})
    lines = lines_of(capsys, tmp_path)
    assert not differences(lines)
    assert [line.split()[3] for line in lines[4:6]] == ["rosita", "lxmert"]


def test_files_are_compared_by_their_place_under_the_data_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(name: str) -> dict[str, Any]:
        dataset = {"name": "refcoco", "evaluate": ["testA"], "annotations": f"/elsewhere/annotations/{name}"}
        return {"data_root": "/elsewhere", "tasks": [{"name": "rec", "dataset": dataset}]}

    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config=elsewhere("unc"))
    assert not differences(lines_of(capsys, tmp_path))
    make_run(tmp_path / "c", config=elsewhere("google"))
    unc, google = "annotations annotations/unc", "annotations annotations/google"
    assert differences(lines_of(capsys, tmp_path)) == [unc, unc, google]


def test_report_marks_runs_whose_protocols_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", iou="plus_one")
    make_run(tmp_path / "b", iou="official")
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("81.80 % [1]") == printed.count("81.80 % [2]") == 1
    assert "[1] iou plus_one\n[2] iou official\n" in printed


def test_demo_runs_have_tables_of_their_own_and_are_compared_with_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", demo=True)
    make_run(tmp_path / "b")
    lines = lines_of(capsys, tmp_path)
    demo = lines.index("rec on refcoco, demo data:")
    ours, demos = ([line for line in part if line.startswith("testA")] for part in (lines[:demo], lines[demo:]))
    assert [line.split()[-1] for line in ours] == ["-0.21"]
    assert [line.endswith("82.01 %  not comparable") for line in demos] == [True]
    assert "not comparable with published ones" in lines[-1]


def test_runs_without_results_say_how_far_they_are_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a", final=False, status="stopped")
    make_run(tmp_path / "b", final=False, status="failed", message="\nthe loss is not finite\nids: 1, 2")
    make_run(tmp_path / "c", status="failed", message="no space left on the device")
    lines = lines_of(capsys, tmp_path)
    assert lines[-6:] == [
        "runs without results:",
        "",
        "no.  run  experiment  state                     why",
        "---  ---  ----------  ------------------------  ----------------------",
        "  2  a    toy         stopped at step 10 of 10  -",
        "  3  b    toy         failed at step 10 of 10   the loss is not finite",
    ]
    assert "1: failed at step 10 of 10 (no space left on the device); results may be missing" in lines
    make_run(tmp_path / "d", final=False, status="failed", message="word " * 1000)
    assert lines_of(capsys, tmp_path)[-1].endswith("word word ... (status.json has all)")


@pytest.mark.parametrize(
    ("conditions", "runs"),
    [
        (["experiment=toy_*"], ["b", "d"]),
        (["backbone.size=tiny"], ["c", "b"]),  # in the order of the experiments
        (["score=accuracy", "experiment=toy_?"], ["b", "d"]),  # that one has no score of any name
        (["backbone.size=tiny", "split=testA"], ["b"]),
        (["status=failed"], ["d"]),
        (["dataset=refcoco", "split=val"], ["c"]),
        (["split=testA"], ["a", "b", "d"]),  # the last was to score it
        (["run=[ac]", "backbone=rosita", "task=rec", "score=acc*"], ["a", "c"]),
    ],
)
def test_where_chooses_runs_and_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], conditions: list[str], runs: list[str]
) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", experiment="toy_b", config=tiny())
    make_run(tmp_path / "c", split="val", config=tiny(epochs=1))
    make_run(tmp_path / "d", experiment="toy_d", final=False, status="failed")
    lines = lines_of(capsys, tmp_path, *(f"--where={condition}" for condition in conditions))
    assert [line.split()[1] for line in lines if line[:4].strip().isdecimal()] == runs


@pytest.mark.parametrize(
    ("condition", "status", "words"),
    [
        ("backbone.sise=tiny", 2, "Did you mean 'backbone.size'?"),
        ("tiny", 2, "write KEY=PATTERN"),
        ("experiment=vqa*", 5, "none of 1 runs matches 'experiment=vqa*'"),
    ],
)
def test_a_condition_that_selects_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], condition: str, status: int, words: str
) -> None:
    make_run(tmp_path / "a")
    assert main(["report", str(tmp_path), "--where", condition]) == status
    assert words in capsys.readouterr().err


def test_names_and_messages_stay_text_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<b>[red]x\x1b[2J\n99.99 %\u202e\u2028"
    make_run(tmp_path / "a[b]\x1b[31m", experiment=hostile, config={"backbone": {"name": hostile}})
    make_run(tmp_path / "b", final=False, status="failed", message=f"{hostile} happened")
    printed = "\n".join(lines_of(capsys, tmp_path, "--html"))
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "<b>[red]x [2J 99.99 %" in printed
    assert "a[b] [31m" in printed
    (page,) = tmp_path.glob("a*/report.html")
    assert "&lt;b&gt;[red]x" in page.read_text(encoding="utf-8")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60))


@pytest.mark.parametrize("config", ["name: [unclosed", BOMB, "a: " + "[" * 5000, 'a: "\\ud800"'], ids=range(4))
def test_report_reads_damaged_folders_as_far_as_possible(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "toy" / "a")
    (folder / "status.json").write_text('{"status": "do')
    (folder / "config.yaml").write_text(config)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "res')
    assert main(["report", str(tmp_path), "--html"]) == 0
    printed = capsys.readouterr().out
    assert "81.80 %" in printed
    assert "1: unknown; results may be missing" in printed


def test_links_in_a_runs_folder_neither_end_nor_repeat_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "toy" / "a")
    for place, target in ((folder.parent, ".."), (folder, ".")):
        (place / "up").symlink_to(target)
        (place / "self").symlink_to("self")
        (place / "gone").symlink_to("nowhere")
    (folder.parent / "latest").symlink_to(folder.name)
    assert main(["report", str(tmp_path), "--html"]) == 0
    assert capsys.readouterr().out.count("81.80 %") == 1
    assert open_run_folder(folder.parent).path == folder
    for target in ("latest", "nowhere", ".."):
        (folder.parent / "latest").unlink()
        (folder.parent / "latest").symlink_to(target)
        assert open_run_folder(folder.parent).path == folder


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
    assert (result["difference"], result["not_comparable"]) == (pytest.approx(-0.21), [])
    assert (run["backbone"], run["options"]["train.epochs"]) == ("rosita", 2)


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
