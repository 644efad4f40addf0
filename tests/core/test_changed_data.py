"""A run goes on with the data that it was started with, or not at all, or says that it did not."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import toy_world as toy
from toy_runs import experiment, losses, stop_after

from vlrun import RegionFeatureStore
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.errors import DataError, StoppedOnRequest
from vlrun.features.writer import write_store
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run
from vlrun.runs.run import RunResult, run_experiment


@pytest.fixture
def stopped(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped in its second epoch."""
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    return (world / "runs" / "toy" / "latest").resolve()


def resume(world: Path, plugins: Plugins, **options: Any) -> RunResult:
    return run_experiment(experiment(world, plugins), plugins=plugins, continues=True, **options)


def short(content: bytes) -> str:
    return sha256(content).hexdigest()[:12]


@pytest.mark.parametrize("split", ["train", "val"])
def test_changed_annotations_are_refused_with_file_and_hashes(
    world: Path, plugins: Plugins, stopped: Path, split: str
) -> None:
    (world / "data" / f"{split}.jsonl").write_text("changed\n")
    with pytest.raises(DataError) as caught:
        resume(world, plugins)
    assert f"file {split}.jsonl was {short(b'')}, is {short(b'changed' + bytes([10]))}" in str(caught.value)
    assert "--accept-changed-data" in str(caught.value)

    (world / "data" / f"{split}.jsonl").write_text("")
    assert resume(world, plugins).rows, "with what was there before it goes on"


def test_a_changed_store_is_refused_with_both_fingerprints(world: Path, plugins: Plugins, stopped: Path) -> None:
    path = world / "data" / "toys.lmdb"
    before = RegionFeatureStore(path).fingerprint
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_store(path, [toy.image_features(index) for index in [*range(toy.NUM_IMAGES - 1), 99]] + [_last_image()])
    after = RegionFeatureStore(path).fingerprint
    with pytest.raises(DataError, match=f"toys.lmdb was {before}, is {after}"):
        resume(world, plugins)


def _last_image() -> Any:
    from dataclasses import replace

    return replace(toy.image_features(100), image_id=f"img{toy.NUM_IMAGES - 1}")


def test_an_accepted_change_marks_the_run_and_all_that_comes_after(
    world: Path, plugins: Plugins, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "data" / "train.jsonl").write_text("changed\n")
    options: Any = {"plugins": plugins, "continues": True}
    reported = experiment(world, plugins, "built_in_reporters=true")  # what a run leaves may change
    change = f"after step 4: file train.jsonl was {short(b'')}, is {short(b'changed' + bytes([10]))}"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(StoppedOnRequest):
            run_experiment(reported, accepts_changed_data=True, **options)
    result = run_experiment(reported, **options)  # it was accepted once
    assert {row.score.protocol["data changed"] for row in result.rows} == {change}
    assert change in (result.folder / "report.html").read_text()
    assert change in (result.folder / "log.txt").read_text()
    assert len(losses(result)) == 3 * (23 // 6)

    opened = OpenedRun(RunFolder(result.folder), experiment(world, plugins), plugins)
    rows = evaluate_run(opened, Ranks(0, 1, toy.torch.device("cpu")), Reporters([]))
    assert {row.score.protocol["data changed"] for row in rows} == {change}


def test_a_run_of_an_earlier_version_goes_on(world: Path, plugins: Plugins, stopped: Path) -> None:
    record = json.loads((stopped / "data.json").read_text())
    del record["input_files"]
    (stopped / "data.json").write_text(json.dumps(record))
    assert resume(world, plugins).rows


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000])
def test_a_damaged_record_of_the_data_is_no_agreement(
    world: Path, plugins: Plugins, stopped: Path, content: str
) -> None:
    (stopped / "data.json").write_text(content)
    (stopped / "hashes.json").unlink()
    with pytest.raises(DataError, match=r"data\.json.*nobody knows what the run was started with"):
        resume(world, plugins)
    assert resume(world, plugins, accepts_changed_data=True).rows


def test_a_resume_says_whose_code_is_another(world: Path, plugins: Plugins, stopped: Path) -> None:
    environment = json.loads((stopped / "environment.json").read_text())
    assert re.fullmatch("[0-9a-f]{10}", environment["code"]["vlrun"])
    assert environment["code"].keys() == {record.distribution for record in plugins.records}
    environment["code"]["vlrun"] = "another"
    (stopped / "environment.json").write_text(json.dumps(environment))
    result = run_experiment(
        experiment(world, plugins, "built_in_reporters=true"), plugins=plugins, continues=True, folder=stopped
    )
    assert "the code of vlrun is another than when this run started" in (result.folder / "log.txt").read_text()
    assert json.loads((stopped / "environment.json").read_text())["code"]["vlrun"] == "another", "as it started"


@pytest.mark.parametrize("name", ["command.txt", "environment.json", "data.json"])
def test_records_that_a_kill_has_prevented_are_written_by_the_resume(
    world: Path, plugins: Plugins, stopped: Path, name: str
) -> None:
    (stopped / name).unlink()
    (stopped.parent / "latest").unlink()
    result = run_experiment(experiment(world, plugins), plugins=plugins, continues=True, folder=stopped)
    assert (result.folder / name).stat().st_size
    assert (stopped.parent / "latest").resolve() == stopped
