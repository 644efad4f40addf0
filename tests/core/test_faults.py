"""The short form of ``make faults``: kills in the middle of every kind of write, resumed to the same numbers.

The long form (``python -m faults``) does it to runs that mine, submit and run on several processes, and injects more.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_runs import experiment

from faults.damage import damages
from faults.kills import MOMENTS
from faults.moments import watch
from faults.report import FOUND, LOST, SAME, Report, read_report
from faults.world import Facts, differences, facts, left_behind
from vlrun.engine.run_folder import RunFolder
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

OPTIONS = ("train.epochs=2", "train.checkpoint_every=2", "built_in_reporters=true", "reporters=[]")


def forked(world: Path, plugins: Plugins, case: str, begin: Callable[[], None]) -> int:
    """The status of a run in a forked process that does something first."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # those of the parent are not there
            begin()
            run_experiment(experiment(world, plugins, *OPTIONS, runs_root=f"runs/{case}"), plugins=plugins)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def folders(world: Path, case: str) -> list[Path]:
    return sorted(path for path in (world / "runs" / case / "toy").iterdir() if not path.is_symlink())


@pytest.fixture
def whole(world: Path, plugins: Plugins) -> tuple[Facts, list[str]]:
    log = world / "writes"
    assert forked(world, plugins, "whole", lambda: watch(log=log)) == 0
    return facts(folders(world, "whole")[0]), log.read_text().splitlines()


def test_a_run_that_is_killed_in_any_kind_of_write_ends_as_if_it_had_not_been(
    world: Path, plugins: Plugins, whole: tuple[Facts, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    expected, writes = whole
    counts = {kind: sum(bool(re.search(pattern, path)) for path in writes) for kind, pattern in MOMENTS.items()}
    kinds = [kind for kind, count in counts.items() if count]
    assert {*MOMENTS} - {*kinds} == {"mining", "submission files"}, "the toy world has neither"
    for number, kind in enumerate(kinds):
        case, moment = f"case{number}", counts[kind] // 2
        status = forked(world, plugins, case, lambda kind=kind, moment=moment: watch(MOMENTS[kind], moment))
        assert status == -signal.SIGKILL, kind
        run_experiment(experiment(world, plugins, *OPTIONS, runs_root=f"runs/{case}"), plugins=plugins, continues=True)
        (folder,) = folders(world, case)
        assert differences(expected, facts(folder)) == [], kind
        assert left_behind(folder) == [], kind


def test_a_run_that_is_killed_after_its_last_checkpoint_ends_at_its_last_step(world: Path, plugins: Plugins) -> None:
    """Nothing is left to be trained, which would have said how far the run is."""
    options = experiment(world, plugins, *OPTIONS)
    folder = RunFolder(run_experiment(options, plugins=plugins).folder)
    total = folder.read_status()["total_steps"]
    folder.write_status(status="running", step=total - 1)
    run_experiment(options, plugins=plugins, continues=True)
    assert [folder.read_status()[name] for name in ("status", "step")] == ["done", total]


@pytest.mark.parametrize(("status", "stays"), [("stopped", False), ("failed", True)])
def test_a_run_that_was_stopped_before_it_had_a_configuration_leaves_nothing(
    status: str, stays: bool, world: Path, plugins: Plugins
) -> None:
    """One that has failed says why."""
    options = experiment(world, plugins, *OPTIONS, "train.epochs=0")
    before = RunFolder(options.runs_root / "toy" / "20200101-000000-abc")
    before.path.mkdir(parents=True)
    before.write_status(status=status, message="interrupted")
    result = run_experiment(options, plugins=plugins, continues=True)
    assert sorted(path.name for path in before.path.parent.iterdir()) == sorted(
        [*([before.path.name] if stays else []), result.folder.name, "latest"]
    )


def test_facts_tell_runs_apart(world: Path, plugins: Plugins, whole: tuple[Facts, list[str]]) -> None:
    """Else the comparisons above, and those of the long form, could not fail."""
    other = run_experiment(experiment(world, plugins, *OPTIONS, "seed=6", runs_root="runs/other"), plugins=plugins)
    wrong = differences(whole[0], facts(other.folder))
    for name in ("metrics.jsonl", "checkpoints/step_00000006/model.safetensors", "predictions/match_val.jsonl"):
        assert any(line.startswith(f"{name}: ") and " instead of " in line for line in wrong)
    (other.folder / "predictions" / "match_val.jsonl").unlink()
    assert "predictions/match_val.jsonl: missing" in differences(whole[0], facts(other.folder))


def test_the_report_keeps_every_case_and_knows_a_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path / "faults.json")
    with report.case("kill -9", "mining") as outcome:
        outcome(SAME, "")
    report.add("damage", "config.yaml", FOUND, "refused")
    assert report.is_good
    with report.case("kill -9", "mining"):
        raise ValueError("odd")
    assert not report.is_good
    again = read_report(tmp_path / "faults.json")
    assert [case.outcome for case in again.cases] == [SAME, FOUND, LOST]
    again.show()
    assert "ValueError: odd" in capsys.readouterr().out


def test_damages_are_all_different_from_what_was_there() -> None:
    import random

    content = bytes(range(200))
    made = list(damages(content, b"another", 50, random.Random(1)))
    assert len(made) == 54
    assert content not in made
    assert len({*made}) > 50
