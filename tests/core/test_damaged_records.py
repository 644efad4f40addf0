"""What a run reads back of its own folder is what it has written, or the run says that it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_runs import experiment, lines, stop_after_step, weights

from vlrun.engine.evaluation_history import EvaluationHistory
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder, open_run_folder
from vlrun.errors import DataError, StoppedOnRequest
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.reporting.examples import read_examples
from vlrun.reporting.jsonl import DAMAGED
from vlrun.reporting.run_record import read_header, read_run, write_header
from vlrun.runs.again import evaluate_run, predict_run
from vlrun.runs.run import run_experiment


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(Reporters, "note", lambda self, message: said.append(message))
    return said


@pytest.fixture
def stopped(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        stop_after_step(patch, 7)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    return (world / "runs" / "toy" / "latest").resolve()


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_damaged_line_of_metrics_is_said_and_set_aside(
    world: Path, plugins: Plugins, stopped: Path, notes: list[str]
) -> None:
    metrics = stopped / "metrics.jsonl"
    third = metrics.read_text().splitlines()[2]
    damaged = third.replace('"learning_rate": 0.01', '"learning_rate": 0.03')
    change(metrics, third, damaged)
    run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert [line["step"] for line in lines(stopped, "step")] == [1, 2, 4, 5, 6, 7, 8, 9]
    assert (stopped / DAMAGED).read_text() == f"{damaged}\n"
    assert f"metrics.jsonl: damaged in 1 lines (3), which are kept in {DAMAGED}" in notes
    assert read_run(stopped).damage == [f"{metrics}: damaged, lines are missing: steps 3"]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (0, "steps 1, 2, 3, 4, 5, ... and 2 more; scores of match val after step 3, match val after step 6"),
        (4, "steps 4, 5, 6, 7; scores of match val after step 6"),
    ],
)
def test_lines_of_metrics_that_a_cut_has_taken_are_said(
    kept: int, said: str, world: Path, plugins: Plugins, stopped: Path, notes: list[str]
) -> None:
    metrics = stopped / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:kept]))
    run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert f"metrics.jsonl: damaged, lines are missing: {said}" in notes


def test_a_report_leaves_damaged_results_out_and_says_so(world: Path, plugins: Plugins) -> None:
    folder = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins).folder
    assert [(row.split, row.score.name) for row in read_run(folder).rows] == [("val", "accuracy"), ("test", "accuracy")]
    final = next(line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"final": true' in line)
    change(folder / "metrics.jsonl", final, final.replace('"value": ', '"value": 1'))
    record = read_run(folder)
    assert [row.split for row in record.rows] == ["test"]
    assert record.damage == [
        f"{folder / 'metrics.jsonl'}: 1 damaged lines are left out",
        f"{folder / 'metrics.jsonl'}: damaged, 1 of 2 final results are missing",
    ]


@pytest.mark.parametrize("kept", [0, 3, -2, -1])
def test_a_report_says_what_a_cut_has_taken_from_metrics(kept: int, world: Path, plugins: Plugins) -> None:
    folder = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins).folder
    assert read_run(folder).damage == []
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:kept]))
    record = read_run(folder)
    assert record.damage[-1] == f"{metrics}: damaged, {2 - len(record.rows)} of 2 final results are missing"
    steps = [f"{metrics}: damaged, lines are missing: steps 1, 2, 3"] if kept == 0 else []
    assert record.damage[:-1] == steps


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("status.json", '"step": 3', '"step": 7'),
        ("header.json", '"facts"', '"fakts"'),
        ("examples/match_val.json", '"predicted"', '"predictee"'),
    ],
)
def test_a_report_leaves_a_damaged_record_out_and_says_so(
    name: str, old: str, new: str, world: Path, plugins: Plugins
) -> None:
    folder = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins).folder
    write_header(folder, [("backbone", "toy")])
    change(folder / name, old, new)
    record = read_run(folder)
    assert record.damage == [f"{folder / name}: damaged, and left out"]
    assert (record.status, record.step) == (("unknown", 0) if name == "status.json" else ("done", 3))
    assert (read_header(folder) == []) == (name == "header.json")
    assert all("match val" not in group.title for group in read_examples(folder)) == (name.startswith("examples"))


@pytest.mark.parametrize("damage", ["", "[", "null", "{}", "flip"])
def test_damaged_evaluations_are_made_again(
    world: Path, plugins: Plugins, stopped: Path, notes: list[str], damage: str
) -> None:
    path = stopped / "evaluations.json"
    before = path.read_text()
    path.write_text(before.replace('"step": 3', '"step": 2') if damage == "flip" else damage)
    run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    rows = json.loads(path.read_text())
    assert rows[:2] == json.loads(before)
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert "evaluations.json was damaged; it is made again of the results in metrics.jsonl" in notes


def test_evaluations_that_are_none_are_made_again_without_hashes(stopped: Path) -> None:
    """An earlier version has kept none."""
    (stopped / "hashes.json").unlink()
    path, history = stopped / "evaluations.json", EvaluationHistory(stopped / "evaluations.json")
    assert history.read(9) is None
    whole = history.rows
    row = json.dumps(whole[0]).partition('"scores"')[0]
    for damage in ("[1]", "[{}]", '[{"step": "3"}]', "[[]]", f'[{row}"scores": []}}]', f'[{row}"scores": [{{}}]}}]'):
        path.write_text(damage)
        assert history.read(9) == "evaluations.json was damaged; it is made again of the results in metrics.jsonl"
        assert history.rows == whole


def test_evaluations_that_cannot_be_made_again_are_an_error(world: Path, plugins: Plugins, stopped: Path) -> None:
    (stopped / "evaluations.json").write_text("[")
    (stopped / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match=r"evaluations.json is damaged, and metrics.jsonl does not have its scores"):
        run_experiment(experiment(world, plugins), plugins=plugins, continues=True)


@pytest.mark.parametrize("damage", ["", "seed: 1\n", "[", "\x00", "flip"])
def test_a_damaged_configuration_is_written_again_or_refused(
    world: Path, plugins: Plugins, stopped: Path, damage: str
) -> None:
    path = stopped / "config.yaml"
    before = path.read_text()
    path.write_text(before.replace("learning_rate: 0.01", "learning_rate: 0.02") if damage == "flip" else damage)
    with pytest.raises(DataError, match=r"config.yaml is not what the run has written"):
        open_run_folder(stopped)
    with pytest.raises(DataError, match=r"config.yaml is not what the run has written"):
        run_experiment(experiment(world, plugins, "seed=6"), plugins=plugins, continues=True)
    assert read_run(stopped).damage == [f"{path}: damaged, or changed"]
    result = run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert result.folder == stopped
    assert path.read_text() == before


@pytest.mark.parametrize("damage", ["", "[]", "flip"])
def test_a_damaged_record_of_data_that_are_the_same_is_written_again(
    world: Path, plugins: Plugins, stopped: Path, damage: str
) -> None:
    path = stopped / "data.json"
    before = path.read_text()
    path.write_text(before.replace('"extractor": "', '"extractor": "x') if damage == "flip" else damage)
    run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert path.read_text() == before


def test_a_run_of_an_earlier_version_has_no_hashes_and_goes_on(world: Path, plugins: Plugins, stopped: Path) -> None:
    (stopped / "hashes.json").unlink()
    metrics = stopped / "metrics.jsonl"
    old = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in old:
        del line["crc32"]
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in old))
    before = weights(stopped)
    run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert [line["step"] for line in lines(stopped, "step")] == list(range(1, 10))
    assert before.keys() == weights(stopped).keys()


WRONG_DATA = ['{"match": 3}', '{"match": {"features": 3}}', '{"input_files": 3}', '{"match": {"train": 3}}', "[]"]


def test_a_record_of_data_that_is_none_is_no_agreement_without_hashes(
    world: Path, plugins: Plugins, stopped: Path
) -> None:
    (stopped / "hashes.json").unlink()
    for content in WRONG_DATA:
        (stopped / "data.json").write_text(content)
        with pytest.raises(DataError, match=r"data\.json.*nobody knows what the run was started with"):
            run_experiment(experiment(world, plugins), plugins=plugins, continues=True)


def test_a_run_whose_record_of_data_is_damaged_is_not_evaluated(world: Path, plugins: Plugins) -> None:
    """What training has marked its scores with is there alone, and unmarked ones would look better."""
    folder = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins).folder
    opened = OpenedRun(RunFolder(folder), experiment(world, plugins, "train.epochs=0"), plugins, "last")
    alone, path = Ranks(0, 1, torch.device("cpu")), folder / "data.json"
    whole = path.read_text()
    assert evaluate_run(opened, alone, Reporters([]))
    for damaged in (whole.replace('"extractor": "', '"extractor": "x'), "", "{}", *WRONG_DATA):
        path.write_text(damaged)
        for again in (evaluate_run, predict_run):
            with pytest.raises(DataError, match=r"data.json is not what the run has written"):
                again(opened, alone, Reporters([]))
    path.unlink()  # an earlier version, or a copy without it
    assert evaluate_run(opened, alone, Reporters([]))
