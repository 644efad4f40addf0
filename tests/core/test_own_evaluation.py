"""A task of a plugin that ranks its examples instead of predicting them one by one, through every verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import toy_world as toy
from toy_runs import lines

from vlrun.cli import main
from vlrun.config.experiment import load_experiment
from vlrun.engine.ranks import Ranks
from vlrun.plugins.manager import create_plugins
from vlrun.runs import run as runs
from vlrun.testing import private_imports, run_ranks

SOURCE = "from ranking_world import vlrun_tasks\nfrom toy_world import vlrun_backbones, vlrun_datasets\n"


@pytest.fixture
def ranking(world: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment file of the task; the plugin is installed."""
    install("vlrun-ranking", SOURCE)
    monkeypatch.chdir(world)
    text = toy.EXPERIMENT.replace("name: match", "name: ranking").partition("published:")[0]
    path = world / "ranking.yaml"
    path.write_text(
        f"data_root: data\nruns_root: runs\n{text}".replace("[{name: jsonl}]", "[{name: console}, {name: jsonl}]")
    )
    return path


def predictions(folder: Path, split: str = "test") -> list[dict[str, Any]]:
    content = (folder / "predictions" / f"ranking_{split}.jsonl").read_text()
    return [json.loads(line) for line in content.splitlines()]


def final_scores(folder: Path) -> list[dict[str, Any]]:
    return [row for row in lines(folder, "result") if row["final"]]


def scores_of(printed: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(printed)
    return [row.get("score", row) for row in rows]


def test_it_runs_and_every_score_says_how_it_was_made(ranking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(ranking)]) == 0
    printed = capsys.readouterr().out
    assert "test: 11 to order" in printed, "the header has the lines of describe_splits"
    assert "test: ordered the texts of 7 images" in printed
    folder = ranking.parent / "runs" / "ranking" / "latest"
    rows = predictions(folder)
    assert [row["id"] for row in rows] == [f"img{image}" for image in range(toy.NUM_IMAGES)]
    assert sorted(name for row in rows for name in row["order"]) == sorted(f"test-{n}" for n in range(11))

    history = json.loads((folder / "evaluations.json").read_text())
    between = [row["scores"][0]["protocol"] for row in history]
    assert len(between) == 3
    assert {(facts["order"], facts["texts"]) for facts in between} == {("its first texts", "8")}
    end = [row["protocol"] for row in final_scores(folder)]
    assert [(facts["split"], facts["order"], facts["texts"]) for facts in end] == [
        ("val", "all texts of an image", "13"),
        ("test", "all texts of an image", "11"),
    ]
    assert all("left out" not in facts for facts in end)
    assert [facts["annotations"] for facts in end] == ["val", "test"], "the dataset's own protocol is in every score"


def test_evaluate_predict_and_score_give_what_the_run_gave(ranking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(ranking)]) == 0
    folder = ranking.parent / "runs" / "ranking" / "latest"
    path, before = folder / "predictions" / "ranking_test.jsonl", predictions(folder)
    known = [row["value"] for row in final_scores(folder)]
    capsys.readouterr()

    assert main(["evaluate", str(folder), "--json"]) == 0
    assert [score["value"] for score in scores_of(capsys.readouterr().out)] == known
    path.unlink()
    assert main(["predict", str(folder), "--split", "test"]) == 0
    capsys.readouterr()
    assert predictions(folder) == before
    assert main(["score", str(path), "--experiment", str(folder), "--split", "test", "--json"]) == 0
    (score,) = scores_of(capsys.readouterr().out)
    assert score["value"] == known[1]
    assert score["protocol"]["order"] == "all texts of an image"

    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    assert main(["score", str(path), "--experiment", str(folder), "--split", "test"]) != 0
    assert "the predictions are not those of its 11 texts" in capsys.readouterr().err


def test_a_split_that_the_task_refuses_ends_the_run_before_it_trains(
    ranking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(ranking), "tasks.0.at_least=12"]) != 0
    assert "nothing to order in test: fewer than 12 texts" in capsys.readouterr().err
    (folder,) = (ranking.parent / "runs" / "ranking").iterdir()
    assert json.loads((folder / "status.json").read_text())["status"] == "failed"
    assert not (folder / "checkpoints").exists()


def test_two_processes_order_as_one_does(ranking: Path) -> None:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    names = ("toy_world", "ranking_world")
    plugins = create_plugins([*core, *(EntryPoint(name, name, "vlrun") for name in names)])
    folders = []
    for world_size in (1, 2):
        loaded = load_experiment(ranking, [f"runs_root=runs{world_size}", "train.epochs=0"], plugins=plugins)

        def body(ranks: Ranks, loaded: Any = loaded) -> Any:
            runs.join_ranks = lambda timeout, threads: nullcontext(ranks)
            return runs.run_experiment(loaded, plugins=plugins).folder

        folders.append(run_ranks(body, ranking.parent, world_size)[0])
    assert predictions(folders[0]) == predictions(folders[1])
    assert predictions(folders[0], "val") == predictions(folders[1], "val")


def test_the_task_needs_nothing_private(tmp_path: Path) -> None:
    source = (Path(__file__).parent / "ranking_world.py").read_text()
    (tmp_path / "ranking_world.py").write_text(source)
    assert not private_imports(tmp_path)
    assert {line.split()[1] for line in source.splitlines() if line.startswith("from vlrun")} == {"vlrun"}
