"""Published numbers: a difference only where protocol and recipe are those that the number was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_runs import experiment

from vlrun import Score, load_experiment
from vlrun.cli import main
from vlrun.plugins.manager import Plugins
from vlrun.reporting.options import flat_options
from vlrun.reporting.published import DEMO_REASON, UNDECLARED, result_row
from vlrun.runs.run import run_experiment

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"backbone": {"name": "rosita", "size": "base"}, "train.epochs": 15, "tasks.0.dataset": {"train": ["train"]}}
RESULT = {"task": "rec", "split": "val", "name": "accuracy", "value": 76.06, "examples": 10758}
PUBLISHED = {
    "source": "Cui et al. 2021",
    "recipe": RECIPE,
    "weights": ["rosita"],
    "features": ["bua-caffe"],
    "training_examples": 120191,
    "protocol": {"hit": "IoU >= 0.5"},
    "results": [RESULT],
}
CONFIG = {
    "backbone": {"name": "rosita", "size": "base", "dropout": 0.1},
    "tasks": [{"name": "rec", "dataset": {"name": "refcoco+", "train": ["train"]}}],
    "train": {"epochs": 15},
    "published": PUBLISHED,
}
DATA = {
    "rec": {
        "train": [{"split": "train", "examples": 120000}, {"split": "more", "examples": 191}],
        "features": {"extractor": "bua-caffe"},
    },
    "weights": {"format": "rosita"},
}
SCORE = Score("accuracy", 76.31, count=10758, protocol={"hit": "IoU >= 0.5", "checkpoint": "best on val (step 3)"})


def reasons(config: Any = (), data: Any = (), published: Any = (), score: Score = SCORE) -> list[str]:
    content = {**CONFIG, **dict(config), "published": {**PUBLISHED, **dict(published)}}
    return list(result_row(content, {**DATA, **dict(data)}, "rec", "val", score).not_comparable)


def test_a_run_that_agrees_in_all_that_is_declared_is_comparable() -> None:
    row = result_row(CONFIG, DATA, "rec", "val", SCORE)
    assert (row.published, row.published_source, row.not_comparable) == (76.06, "Cui et al. 2021", ())
    assert result_row(CONFIG, DATA, "rec", "testA", SCORE).published is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"backbone": {"name": "rosita", "size": "tiny"}}}, "backbone.size tiny instead of base"),
        ({"config": {"train": {"epochs": 1}}}, "train.epochs 1 instead of 15"),
        (
            {"config": {"tasks": [{"name": "rec", "dataset": {"train": ["train", "val"]}}]}},
            "tasks.0.dataset.train [train, val] instead of [train]",
        ),
        ({"config": {"demo": True, "train": {"epochs": 1}}}, DEMO_REASON),
        ({"data": {"weights": None}}, "random weights instead of those of rosita"),
        ({"data": {"weights": {"format": "bert"}}}, "weights of bert instead of those of rosita"),
        ({"data": {"weights": {"path": "w"}}}, "weights of an unknown layout instead of those of rosita"),
        (
            {"data": {"rec": {**DATA["rec"], "features": {"extractor": "frcnn-hf"}}}},
            "features of frcnn-hf instead of bua-caffe",
        ),
        (
            {"data": {"rec": {**DATA["rec"], "features": {"extractor": ""}}}},
            "features of an unknown extractor instead of bua-caffe",
        ),
        (
            {"data": {"rec": {**DATA["rec"], "train": [{"examples": 30}]}}},
            "trained on 30 instead of 120,191 examples",
        ),
        (
            {"score": Score("accuracy", 50.0, count=30, protocol=SCORE.protocol)},
            "scored on 30 instead of 10,758 examples",
        ),
        (
            {"score": Score("accuracy", 50.0, count=10758, protocol={"hit": "IoU > 0.5"})},
            "hit IoU > 0.5 instead of IoU >= 0.5",
        ),
        ({"score": Score("accuracy", 50.0, count=10758)}, "hit (none) instead of IoU >= 0.5"),
        (
            {"published": {"results": [{**RESULT, "protocol": {"candidate_pool": "1,000 images"}}]}},
            "candidate pool (none) instead of 1,000 images",
        ),
        ({"published": {"recipe": {}}}, UNDECLARED),
    ],
)
def test_whatever_differs_is_the_reason(change: dict[str, Any], reason: str) -> None:
    assert reasons(**change) == [reason]


def test_what_an_experiment_does_not_declare_is_not_compared() -> None:
    bare = {"weights": [], "features": [], "training_examples": None, "protocol": {}}
    assert reasons(data={"rec": {}, "weights": None}, published=bare) == []


@pytest.fixture
def world_with_recipe(world: Path) -> Path:
    file = world / "toy.yaml"
    content = yaml.safe_load(file.read_text())
    content["published"]["recipe"] = {"train.batch_size": 6}
    file.write_text(yaml.safe_dump(content))
    return world


def test_an_option_changed_from_outside_the_file_is_compared_without_being_declared(
    world_with_recipe: Path, plugins: Plugins
) -> None:
    speed = ["train.workers=1", "train.checkpoint_every=1", "train.compile=true", "train.activation_checkpointing=true"]
    plain = experiment(world_with_recipe, plugins, *speed, "seed=7")
    changed = experiment(world_with_recipe, plugins, "train.epochs=1", "tasks.0.dataset.limit=5")
    assert plain.published is not None
    assert plain.published.recipe == {"train.batch_size": 6}
    assert changed.published is not None
    recipe = changed.published.recipe
    assert recipe == {"train.epochs": 3, "tasks.0.dataset.limit": None, "train.batch_size": 6}
    kept = yaml.safe_load(changed.as_yaml())["published"]["recipe"]  # so that the run folder knows it, too
    assert flat_options(kept) == flat_options(recipe)


def test_options_that_a_task_declares_as_those_of_speed_are_not_compared() -> None:
    changes = ["tasks.0.pairs_per_batch=8", "tasks.0.check_pairs=16", "tasks.0.ties=optimistic"]
    plain, changed = (
        load_experiment(ROOT / "experiments" / "lxmert_s_ir_zero_shot.yaml", overrides) for overrides in ([], changes)
    )
    assert plain.published is not None
    assert changed.published is not None
    recipe, own = changed.published.recipe, flat_options(plain.published.recipe)
    assert {key: recipe[key] for key in recipe if key not in own} == {"tasks.0.ties": "stable_low_index_first"}


def test_table_page_and_json_of_a_run_say_the_same(
    world_with_recipe: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    same = run_experiment(experiment(world_with_recipe, plugins), plugins=plugins)
    quick = run_experiment(experiment(world_with_recipe, plugins, "train.epochs=1"), plugins=plugins)
    reason = "train.epochs 1 instead of 3"
    assert [row.not_comparable for row in same.rows if row.published] == [()]
    assert [row.not_comparable for row in quick.rows if row.published] == [(reason,)]
    assert main(["report", str(world_with_recipe / "runs"), "--html", "--json"]) == 0
    results = {run["run"]: run["results"][0] for run in json.loads(capsys.readouterr().out)["runs"]}
    ours, theirs = results[str(same.folder)], results[str(quick.folder)]
    assert ours["difference"] == pytest.approx(ours["value"] - 12.5)
    assert (theirs["difference"], theirs["not_comparable"], theirs["published"]) == (None, [reason], 12.5)
    assert reason in (quick.folder / "report.html").read_text()
    assert "not comparable" not in (same.folder / "report.html").read_text()


@pytest.fixture
def finished_run(
    world_with_recipe: Path,
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """A run under the folder in which the test is."""
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    monkeypatch.chdir(world_with_recipe)
    assert main(["run", "toy.yaml", "data_root=data", "runs_root=runs"]) == 0
    capsys.readouterr()
    return "runs/toy"


def test_a_later_evaluation_with_other_options_is_not_comparable(
    finished_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", finished_run, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["published"], row["not_comparable"]) == (12.5, [])
    assert main(["evaluate", finished_run, "tasks.0.dataset.limit=3"]) == 0
    printed = capsys.readouterr().out
    assert "not comparable\n" in printed
    assert "tasks.0.dataset.limit: None -> 3" in printed


def test_a_file_of_predictions_does_not_say_what_made_it(finished_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"{finished_run}/latest/predictions/match_val.jsonl"
    assert main(["score", file, "--experiment", f"{finished_run}/latest", "--split", "val"]) == 0
    assert "a file of predictions, which does not say what made it" in capsys.readouterr().out


SHIPPED = [file for file in sorted((ROOT / "experiments").glob("*.yaml")) if "published:" in file.read_text()]


def test_there_are_shipped_experiments_with_published_numbers() -> None:
    assert SHIPPED, "else no test below would fail"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_experiment_is_the_one_that_its_published_numbers_hold_for(file: Path) -> None:
    loaded = load_experiment(file)
    assert loaded.published is not None
    options, recipe = flat_options(loaded.model_dump(mode="json")), flat_options(loaded.published.recipe)
    assert {"backbone.size", "train.epochs", "tasks.0.dataset.train", "tasks.0.dataset.limit"} <= recipe.keys()
    assert {key: options.get(key) for key in recipe} == recipe
    assert loaded.published.weights
    assert bool(loaded.published.features) is not loaded.reads_pictures
    assert loaded.published.training_examples or not loaded.train.epochs
