"""A run folder is usable where its data have moved, or lie on another machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toy_world as toy

from vlrun.cli import main
from vlrun.config.experiment import load_experiment


@pytest.fixture
def run(world: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    for name in ("VLRUN_DATA", "VLRUN_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(world)
    (world / "toys.yaml").write_text(f"data_root: data\nruns_root: runs\n{toy.EXPERIMENT}")
    assert main(["run", "toys.yaml", "train.epochs=1"]) == 0
    return (world / "runs" / "toys" / "latest").resolve()


def features(run: Path, *overrides: str) -> Path:
    return load_experiment(run / "config.yaml", overrides).tasks[0].dataset.features


def test_the_environment_or_an_option_says_where_they_are_now(
    run: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = world / "elsewhere"
    (world / "data").rename(moved)
    assert main(["evaluate", str(run)]) == 5
    assert main(["evaluate", str(run), f"data_root={moved}"]) == 0
    monkeypatch.setenv("VLRUN_DATA", str(moved))
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert "not as the run was" not in capsys.readouterr().err  # they are the same data
    assert features(run) == moved / "toys.lmdb"


def test_data_that_are_where_they_were_stay_there(
    run: Path, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "of other experiments"))
    assert features(run) == world / "data" / "toys.lmdb"
    assert features(run, "data_root=/new") == Path("/new/toys.lmdb")
    monkeypatch.delenv("VLRUN_DATA")
    assert features(run, "tasks.0.dataset.features=/apart/store") == Path("/apart/store")


def test_a_file_that_people_have_written_keeps_its_absolute_paths(run: Path, world: Path) -> None:
    text = (run / "config.yaml").read_text()
    (world / "mine.yaml").write_text(text)
    loaded = load_experiment(world / "mine.yaml", ["data_root=/new"])
    assert loaded.tasks[0].dataset.features == world / "data" / "toys.lmdb"
