"""Every experiment file that ships runs on the demo data, for a few steps and an evaluation.

Twice: with the schedule of the demo, as ``--demo`` has it, and with its own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from optimising import make_schedule
from toy_runs import stop_after_step

from vlrun import load_experiment
from vlrun.cli import main
from vlrun.errors import StoppedOnRequest
from vlrun_demo.images import Image
from vlrun_demo.picture import write_pictures
from vlrun_demo.provider import DemoWorld

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))
LIMIT = 96  # examples of each split: three steps of each task
RANKING = ("retrieval", "zero_shot")
HIDDEN = {("vqa", "test")}  # splits whose answers nobody has
QUICK = ["train.workers=0", "train.log_every=1"]
TINY_BATCH, STEPS_PER_EPOCH = 4, 2  # of each split of training data
SIZES = {"batch_size", "micro_batches", "workers", "threads", "log_every", "evaluate_every", "checkpoint_every"}
NO_RECIPE = {*SIZES, "remove_evaluation_images"}
"""Options of ``train`` that do not say how parameters move: how much at once, how often, and on which images."""

pytestmark = pytest.mark.slow


def test_all_shipped_experiments_are_tested() -> None:
    assert EXPERIMENTS
    assert {ROOT / "experiments", ROOT / "experiments" / "multitask"} <= {file.parent for file in EXPERIMENTS}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: the demo data are generated once."""
    return tmp_path_factory.mktemp("cache")


def makes_weights(content: dict[str, Any]) -> str | None:
    """The experiment whose weights another one, or its demo, starts from; None where none is."""
    reference = str(content["backbone"].get("weights") or "")
    if reference.startswith("run:"):
        return f"{reference.removeprefix('run:').partition('@')[0]}.yaml"
    return content.get("demo_pretraining")


def pretrained(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a pre-training of a few steps, made once."""
    folder = tmp_path_factory.getbasetemp() / name
    out = folder / "weights.safetensors"
    if not out.exists():
        options = [*QUICK, f"tasks.0.dataset.limit={LIMIT}", "train.epochs=1", "train.batch_size=32"]
        if source := makes_weights(yaml.safe_load((ROOT / "experiments" / name).read_text())):
            options.append(f"backbone.weights={pretrained(source, tmp_path_factory)}")
        assert main(["run", str(ROOT / "experiments" / name), "--demo", "--output", str(folder), *options]) == 0
        assert main(["weights", "export", str(folder / Path(name).stem), str(out)]) == 0
    return out


def write_needed_pictures(world: DemoWorld, images: Sequence[Image], folder: Path) -> None:
    """Those of the examples within the limit, of which each has one image or two: drawing all takes half a minute."""
    write_pictures(images, folder, per_split=2 * LIMIT)


@pytest.fixture
def demo_run(
    cache: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Path]:
    """``demo_run(file, overrides, limit=96)``: the folder of its demo run with so many examples of each split."""

    def run(file: Path, overrides: Sequence[str], limit: int) -> Path:
        if not os.environ.get("VLRUN_CACHE"):
            monkeypatch.setenv("VLRUN_CACHE", str(cache))
            monkeypatch.setattr("vlrun_demo.provider.DemoWorld.write_all_pictures", write_needed_pictures)
        # what little a few steps teach would not pass for a matching head; plugins/zero_shot tests that
        monkeypatch.setattr("vlrun_zero_shot.task.ZeroShotTask.check_sample", lambda *scores: None)
        content = yaml.safe_load(file.read_text())
        limits = [f"tasks.{index}.dataset.limit={limit}" for index in range(len(content["tasks"]))]
        # an image of a joint run's evaluation may be in each of so few training examples
        options = [*limits, *QUICK, "train.remove_evaluation_images=false", *overrides]
        if source := makes_weights(content):
            options.append(f"backbone.weights={pretrained(source, tmp_path_factory)}")
        status = main(["run", str(file), "--demo", "--output", str(tmp_path), *options])
        assert status == 0, capsys.readouterr().err
        (folder,) = (path.resolve() for path in tmp_path.glob("*/latest"))
        return folder

    return run


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs_on_the_demo_data(file: Path, demo_run: Callable[..., Path]) -> None:
    tasks = yaml.safe_load(file.read_text())["tasks"]
    trained = [task["name"] for task in tasks if task["name"] != "zero_shot"]
    folder = demo_run(file, ["train.epochs=1"] if trained else [], LIMIT)
    steps = rows_of(folder, "step")
    assert {row["task"] for row in steps} == set(trained)
    assert all(row["loss"] > 0 for row in steps)
    for task in tasks:
        for split in task["dataset"]["evaluate"]:
            check_split(folder, rows_of(folder, "result"), task["name"], split)
    report = (folder / "report.html").read_text()
    assert "DEMO RUN" in report
    assert all(f": {task['name']} {split}" in report for task in tasks for split in task["dataset"]["evaluate"])
    assert '<img src="data:image/jpeg;base64,' in report


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_trains_by_its_own_optimiser_and_schedule(file: Path, demo_run: Callable[..., Path]) -> None:
    """From the first epoch to the last, each of a few steps; the demo would lay its own recipe over the file's."""
    experiment, plain = load_experiment(file), yaml.safe_load(file.read_text())["train"]
    own = experiment.train
    recipe = {name: value for name, value in own.model_dump(mode="json").items() if name not in NO_RECIPE}
    sizes = {"batch_size": TINY_BATCH, "evaluate_every": max(1, own.epochs), "checkpoint_every": 1_000}
    overrides = [f"train.{name}={json.dumps(value)}" for name, value in {**recipe, **sizes}.items()]

    folder = demo_run(file, overrides, STEPS_PER_EPOCH * TINY_BATCH)

    used = yaml.safe_load((folder / "config.yaml").read_text())["train"]
    here = {**recipe, "precision": "fp32"}  # what the default comes to on a CPU
    assert {name: used[name] for name in recipe} == here
    for section in ("optimizer", "schedule"):  # as they are written in the file
        assert plain.get(section, {}).items() <= used[section].items()
    steps = rows_of(folder, "step")
    per_epoch = STEPS_PER_EPOCH * sum(len(task.dataset.train) for task in experiment.tasks)
    assert len(steps) == own.epochs * per_epoch
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]) for row in steps)
    if own.epochs:
        rate = make_schedule(own.schedule, own.learning_rate, per_epoch, own.epochs)
        assert [row["learning_rate"] for row in steps] == [rate(step) for step in range(len(steps))]


def test_another_backbone_sees_the_classes_of_the_demo_as_tags(demo_run: Callable[..., Path]) -> None:
    folder = demo_run(ROOT / "experiments" / "rosita_vqa.yaml", ["backbone={name: oscar}", "train.epochs=1"], 8)

    backbone = yaml.safe_load((folder / "config.yaml").read_text())["backbone"]
    assert (backbone["name"], backbone["size"]) == ("oscar", "tiny")
    assert {"ball", "robot"} <= set(Path(backbone["class_names"]).read_text().splitlines())
    assert rows_of(folder, "step")


def test_the_stages_of_lxmert_s_run_in_a_row_and_go_on_in_the_middle(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not os.environ.get("VLRUN_CACHE"):
        monkeypatch.setenv("VLRUN_CACHE", str(cache))
    files = [str(file) for file in EXPERIMENTS if file.stem.startswith("lxmert_s_pretrain_")]
    stages = [Path(file).stem for file in files]
    limit = f"tasks.0.dataset.limit={LIMIT}"

    def run(*these: str) -> int:
        return main(["run", *these, "--demo", "--resume", "--output", str(tmp_path), limit, "train.epochs=1", *QUICK])

    def record(stage: str, file: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((tmp_path / stage / "latest" / file).read_text())
        return content

    assert run(files[0]) == 0
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        assert run(*files) == StoppedOnRequest.exit_status
    assert f"{stages[1]}.yaml (experiment 2 of 3) has not reached its end" in capsys.readouterr().err
    assert run(*files) == 0

    assert [record(stage, "status.json")["status"] for stage in stages] == ["done"] * 3
    assert [record(stage, "data.json")["weights"]["source"].split("/")[0] for stage in stages[1:]] == stages[:2]
    said = (tmp_path / stages[2] / "latest" / "log.txt").read_text()
    assert all(f"{head}_head: taken" in said for head in ("word", "region", "topic"))
    for stage in stages:
        (protocol,) = {
            json.dumps(row["protocol"]["our choice"]) for row in rows_of(tmp_path / stage / "latest", "result")
        }
        assert "objectives of the stage" in protocol


def test_no_experiment_scores_what_it_trains_on() -> None:
    """minival is a part of val, so a split may be trained on under another name."""
    within = {("vqav2", "minival"): "val", ("vqav2", "nominival"): "val"}
    for file in EXPERIMENTS:
        for task in yaml.safe_load(file.read_text())["tasks"]:
            name, trained = task["dataset"]["name"], task["dataset"]["train"]
            for split in task["dataset"]["evaluate"]:
                assert not {split, within.get((name, split))} & set(trained), f"{file.name}: {split}"


def test_published_numbers_are_those_of_the_training_data_that_the_file_has() -> None:
    """ROSITA's VQA numbers are those of train and val; GQA's server has another number than a local testdev."""
    held_out, trainval, gqa = (
        yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())
        for name in ("rosita_vqa", "rosita_vqa_trainval", "lxmert_s_gqa")
    )
    assert "published" not in held_out
    assert trainval["tasks"][0]["dataset"]["train"] == ["train", "val"]
    assert {row["split"] for row in trainval["published"]["results"]} == {"test-dev", "test"}
    assert recipe(trainval) == recipe(held_out)
    assert trainval["train"] == {**held_out["train"], "final_checkpoint": "last"}
    assert {row["split"] for row in gqa["published"]["results"]} == {"test-dev", "test"}


def recipe(experiment: dict[str, Any]) -> list[Any]:
    """Seed, backbone and the options of the tasks, but for their splits."""
    tasks = [
        {**task, "dataset": {key: value for key, value in task["dataset"].items() if key not in ("train", "evaluate")}}
        for task in experiment["tasks"]
    ]
    return [experiment["seed"], experiment["backbone"], tasks]


def check_split(folder: Path, rows: list[dict[str, Any]], task: str, split: str) -> None:
    """A prediction for each example, a final score with a count unless the split is hidden, and the server's file."""
    predictions = (folder / "predictions" / f"{task}_{split}.jsonl").read_text().splitlines()
    assert predictions
    assert len(predictions) <= LIMIT or task in RANKING  # which have one for each image, too
    for prediction in map(json.loads, predictions):
        assert prediction.get("texts") or prediction.get("images")
        assert ("truth" in prediction) == ((task, split) not in HIDDEN)
    scores = [row for row in rows if row["kind"] == "result" and (row["task"], row["split"]) == (task, split)]
    if (task, split) in HIDDEN:
        assert not scores
    else:
        (primary,) = [row for row in scores if row["final"] and row["primary"]]
        assert 0 <= primary["value"] <= 100
        assert primary["count"] > 0
        assert primary["count"] <= len(predictions) or primary["name"] == "masked-word-accuracy"  # of several in a pair
    submissions = list((folder / "submission").glob(f"{task}_{split}.*"))
    assert len(submissions) == (task in ("vqa", "gqa", "nlvr2"))
    assert (folder / "scores" / f"{task}_{split}.npy").exists() == (task in RANKING)
