"""Which run is the newest one: the newest that has started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_runs import experiment

from vlrun.engine.run_folder import latest_run_folder, open_run_folder
from vlrun.errors import ConfigError, DataError
from vlrun.files import point_symlink
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

FAILS = "tasks.0.dataset.evaluate=[val, absent]"


def fail_to_start(world: Path, plugins: Plugins) -> Path:
    """Starts a run that lacks a split, and gives its folder."""
    runs = world / "runs" / "toy"
    before = {path.resolve() for path in runs.glob("*")}
    with pytest.raises((DataError, KeyError)):
        run_experiment(experiment(world, plugins, FAILS), plugins=plugins)
    (folder,) = {path.resolve() for path in runs.glob("*")} - before
    return folder


def test_a_run_that_fails_to_start_does_not_hide_the_one_before(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    failed = fail_to_start(world, plugins)
    runs = world / "runs" / "toy"
    assert failed != result.folder
    assert (runs / "latest").resolve() == result.folder
    assert open_run_folder(runs).path == result.folder

    point_symlink(runs / "latest", failed.name)  # as earlier versions left it
    assert open_run_folder(runs).path == result.folder
    newest = latest_run_folder(world / "runs", "toy")
    assert newest is not None
    assert newest.path == result.folder


def test_a_run_that_has_not_started_says_why(world: Path, plugins: Plugins) -> None:
    failed = fail_to_start(world, plugins)
    message = json.loads((failed / "status.json").read_text())["message"]
    with pytest.raises(ConfigError) as caught:
        open_run_folder(failed)
    assert "has not started" in str(caught.value)
    assert message in str(caught.value)
    assert latest_run_folder(world / "runs", "toy") is None


def test_nothing_to_resume_is_said(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Reporters, "note", lambda self, message: notes.append(message))
    run_experiment(experiment(world, plugins), plugins=plugins)
    assert not [note for note in notes if "--resume" in note]
    run_experiment(experiment(world, plugins, runs_root="empty"), plugins=plugins, continues=True)
    assert f"--resume: there is no run to continue in {world / 'empty' / 'toy'}; starting from the first step" in notes
