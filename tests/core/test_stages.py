"""Stages: runs that start from a checkpoint of another run, and several experiments on one command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from safetensors.torch import load_file
from toy_runs import stop_after_step, weights

from vlrun import DemoFiles
from vlrun.cli import main
from vlrun.cli.doctor.experiment_checks import Shape, first_steps
from vlrun.config.experiment import Experiment, load_experiment
from vlrun.demo import run as demo_run
from vlrun.demo.data import DemoData, DemoDataset
from vlrun.engine import launch as launching
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import read_imported, write_imported
from vlrun.errors import CheckpointError, ConfigError, DataError, StoppedOnRequest
from vlrun.files import sha256_of
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment
from vlrun.runs.stages import initial_weights

SHORT = "train.epochs=1"


@pytest.fixture
def files(world: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., None]) -> list[str]:
    """Three stages, each of which starts from the one before; the toys are an installed plugin."""
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    roots = f"data_root: {world / 'data'}\nruns_root: {world / 'runs'}\n"
    for name, source in {"word": "null", "phrase": "run:word", "sentence": "run:phrase@last"}.items():
        text = toy.EXPERIMENT.replace("{name: toy}", f"{{name: toy, weights: '{source}'}}").replace("'null'", "null")
        (world / f"{name}.yaml").write_text(roots + text)
    monkeypatch.chdir(world)
    return ["word.yaml", "phrase.yaml", "sentence.yaml"]


def loaded(file: str, plugins: Plugins, *overrides: str) -> Experiment:
    return load_experiment(file, [SHORT, *overrides], plugins=plugins)


def run(file: str, plugins: Plugins, *overrides: str, **options: Any) -> Path:
    return run_experiment(loaded(file, plugins, *overrides), plugins=plugins, **options).folder


def folders(name: str) -> list[Path]:
    return sorted(Path("runs", name).glob("[0-9]*"))


def statuses() -> dict[str, list[str]]:
    names = ("word", "phrase", "sentence")
    return {name: [RunFolder(each).read_status()["status"] for each in folders(name)] for name in names}


def started_from(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = RunFolder(folder).read_data()["weights"]
    return record


# --- run:NAME ---


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_a_run_starts_from_the_checkpoint_of_another(files: list[str], plugins: Plugins, checkpoint: str) -> None:
    word = run("word.yaml", plugins, "train.epochs=2")
    overrides = [f"backbone.weights=run:word@{checkpoint}", "train.learning_rate=1e-30"]
    phrase = run("phrase.yaml", plugins, *overrides)

    ours, theirs = weights(phrase), load_file(word / "checkpoints" / checkpoint / "model.safetensors")
    names = [name for name in theirs if name.startswith("backbone.") and "itm" not in name]
    assert len(names) == 4
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    step = (word / "checkpoints" / checkpoint).resolve().name.removeprefix("step_")
    record = started_from(phrase)
    assert record["path"] == str(word / "weights" / f"{checkpoint}_{step}.safetensors")
    assert record["source"] == f"word/{word.name}, step {int(step)}"
    assert record["source_sha256"] == sha256_of(word / "checkpoints" / checkpoint / "model.safetensors")
    assert load_experiment(phrase / "config.yaml", plugins=plugins).backbone.weights == Path(record["path"])


def test_the_images_of_all_earlier_stages_are_remembered(files: list[str], plugins: Plugins) -> None:
    for file in files:
        run(file, plugins)
    source = json.loads(next(folders("phrase")[0].glob("weights/last_*.json")).read_text())
    assert set(source["pretraining_sets"]) == {f"img{index}" for index in range(toy.NUM_IMAGES)}
    assert started_from(folders("sentence")[0])["source"].startswith("phrase/")


def test_a_reference_means_the_newest_finished_run_or_one_folder(files: list[str], plugins: Plugins) -> None:
    first, second, third = (run("word.yaml", plugins) for _ in range(3))
    for place, days in ((first, "20200101"), (second, "20200102"), (third, "20200103")):
        place.rename(place.parent / f"{days}-000000-aaaaaa")
    first, second, third = folders("word")
    RunFolder(third).write_status(status="stopped")

    def source(reference: str) -> Path:
        path = initial_weights(loaded("phrase.yaml", plugins, f"backbone.weights={reference}"), plugins)
        assert path is not None
        return path.parent.parent

    assert source("run:word") == second.resolve()
    assert source(f"run:word/{first.name}@last") == source(f"run:{first.absolute()}") == first.resolve()


def test_what_is_there_is_made_once_and_again_if_damaged(files: list[str], plugins: Plugins) -> None:
    run("word.yaml", plugins)
    path = initial_weights(loaded("phrase.yaml", plugins), plugins)
    assert path is not None
    made = path.stat().st_mtime_ns
    assert initial_weights(loaded("phrase.yaml", plugins), plugins) == path
    assert path.stat().st_mtime_ns == made
    content = path.read_bytes()
    path.write_bytes(content[:100])
    initial_weights(loaded("phrase.yaml", plugins), plugins)
    assert path.read_bytes() == content


def test_without_a_finished_run_it_says_what_to_run(files: list[str], plugins: Plugins) -> None:
    with pytest.raises(DataError, match=r"there is no run in .*runs/word\. .*: runner run word$"):
        run("phrase.yaml", plugins)
    assert not Path("runs/phrase").exists()
    word = run("word.yaml", plugins)
    RunFolder(word).write_status(status="failed")
    with pytest.raises(DataError, match=rf"is 'failed'\. Continue it first: runner run {word} --resume$"):
        run("phrase.yaml", plugins)
    with pytest.raises(DataError, match=r"no demo run in .* \(what is there is no demo\).*: runner run word --demo$"):
        run("phrase.yaml", plugins, "demo=true")


@pytest.mark.parametrize("reference", ["run:", "run:@last", "run:word@first"])
def test_a_reference_has_a_name_and_a_known_checkpoint(files: list[str], plugins: Plugins, reference: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone.weights: .*write run:NAME, run:NAME@best or run:NAME@last"):
        loaded("phrase.yaml", plugins, f"backbone.weights='{reference}'")


def test_weights_that_do_not_fit_are_refused_before_there_is_a_run(
    files: list[str], plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("word.yaml", plugins)
    monkeypatch.setattr(toy.ToyConfig, "weights_problems", lambda config, shapes, facts: [f"{len(shapes)} tensors"])
    with pytest.raises(CheckpointError, match=r"best_\d+.safetensors: 4 tensors"):
        run("phrase.yaml", plugins)
    assert not Path("runs/phrase").exists()


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_resumed_run_keeps_its_source(
    files: list[str], plugins: Plugins, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    word = run("word.yaml", plugins)
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        assert main(["run", "phrase.yaml", SHORT]) == StoppedOnRequest.exit_status
    before = started_from(folders("phrase")[0])
    newer = run("word.yaml", plugins, "seed=6")
    if is_gone:
        shutil.rmtree(word / "weights")

    assert main(["run", "phrase.yaml", SHORT, "--resume"]) == 0

    assert statuses()["phrase"] == ["done"]
    assert started_from(folders("phrase")[0]) == before
    assert not (newer / "weights").exists()
    shutil.rmtree(word)
    assert main(["run", "phrase.yaml", SHORT, "--resume"]) == 0, "what is done needs no source any more"
    with pytest.raises(ConfigError, match="another configuration"):
        run("phrase.yaml", plugins, "backbone.weights=run:word@last", continues=True)


def test_a_run_does_not_go_on_from_other_weights_than_it_began_with(
    files: list[str], plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are read again for parts that no checkpoint has, and named with the scores."""
    run("word.yaml", plugins)
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        assert main(["run", "phrase.yaml", SHORT]) == StoppedOnRequest.exit_status
    path = Path(started_from(folders("phrase")[0])["path"])
    whole = path.read_bytes()
    tensors, facts = read_imported(path)
    next(iter(tensors.values())).add_(1)
    write_imported(path, tensors, facts, ())
    assert main(["run", "phrase.yaml", SHORT, "--resume"]) == DataError.exit_status
    assert re.search(r"weights \S+ \(content_sha256\) was [0-9a-f]{12}, is [0-9a-f]{12}", capsys.readouterr().err)
    path.write_bytes(whole)
    assert main(["run", "phrase.yaml", SHORT, "--resume"]) == 0


def test_other_verbs_know_a_reference(files: list[str], plugins: Plugins, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "phrase.yaml"]) == 0
    assert "weights   run:word, looked for when the run starts" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="run:word: only an experiment names a run"):
        read_imported(Path("run:word"))
    assert main(["bench", "phrase.yaml"]) == DataError.exit_status
    assert "Run that experiment first: runner run word" in capsys.readouterr().err

    shape = Shape(processes=1, workers=0)
    (finding,), demands = first_steps(loaded("phrase.yaml", plugins), plugins, shape)
    assert demands is None
    assert "Run that experiment first" in finding.what
    run("word.yaml", plugins)
    (finding,), demands = first_steps(loaded("phrase.yaml", plugins), plugins, shape)
    assert demands is not None
    assert finding.level == "ok"


# --- several experiments ---


def test_experiments_run_in_order(files: list[str]) -> None:
    assert main(["run", *files, SHORT]) == 0
    assert statuses() == {"word": ["done"], "phrase": ["done"], "sentence": ["done"]}
    sources = [started_from(folders(name)[0])["source"].split("/")[0] for name in ("phrase", "sentence")]
    assert sources == ["word", "phrase"]


def test_a_stop_names_the_file_and_resume_goes_on(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "word.yaml", SHORT]) == 0
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        status = main(["run", *files, SHORT, "--resume"])
    assert status == StoppedOnRequest.exit_status
    assert statuses() == {"word": ["done"], "phrase": ["stopped"], "sentence": []}
    error = capsys.readouterr().err
    assert "phrase.yaml (experiment 2 of 3) has not reached its end; not started: sentence.yaml" in error

    assert main(["run", *files, SHORT, "--resume"]) == 0
    assert statuses() == {"word": ["done"], "phrase": ["done"], "sentence": ["done"]}
    assert "is already done" in capsys.readouterr().out


def test_a_mistake_in_the_last_file_is_found_before_the_first_starts(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sentence.yaml").write_text(Path("sentence.yaml").read_text().replace("run:phrase@last", "run:other"))
    assert main(["run", *files, SHORT]) == DataError.exit_status
    assert "Run that experiment first: runner run other" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert main(["run", "word.yaml", "nowhere.yaml", SHORT]) == ConfigError.exit_status
    assert not Path("runs").exists()


def test_each_experiment_is_launched_with_its_own_command(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []

    def launch(command: Any, arguments: Sequence[str], processes: int) -> int:
        assert processes == 2
        commands.append(arguments)
        return 0 if len(commands) == 1 else 7

    monkeypatch.setattr(launching, "launch", launch)
    overrides = [SHORT, "backbone.weights=null"]
    output = ["--output", files[0]]  # looks like an experiment
    assert main(["run", "--nproc", "2", *output, files[0], SHORT, *files[1:], *overrides[1:]]) == 7
    assert commands == [["run", "--nproc", "2", *output, file, *overrides] for file in files[:2]]


def test_what_cannot_be_a_sequence_is_refused(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "word.yaml", "word.yaml"]) == 2
    assert main(["run", "word.yaml", "train.epochs"]) == 2
    assert "'train.epochs' is not an override" in capsys.readouterr().err
    assert main(["run", *files, "--slurm"]) == 2
    assert "one experiment at a time" in capsys.readouterr().err


class Provider:
    name, duration = "toys", ""


def test_demos_start_from_demos(
    files: list[str], plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path("data").absolute()
    data = DemoData(
        Provider(),  # type: ignore[arg-type]
        {"train.epochs": 1},
        root,
        DemoFiles(root / "v", 6, 3),
        {"toys": DemoDataset(root, root / "toys.lmdb", root / "pictures")},
    )
    monkeypatch.setattr(demo_run, "prepare_demo", lambda *_, **__: data)
    monkeypatch.setattr(demo_run, "demo_of", lambda plugins, datasets: (Provider(), []))
    run("word.yaml", plugins)
    assert main(["run", "phrase.yaml", "--demo"]) == DataError.exit_status
    assert "runner run word --demo" in capsys.readouterr().err

    assert main(["run", *files, "--demo", "--output", "demos"]) == 0

    sources = [started_from(next(Path("demos", name).glob("[0-9]*"))) for name in ("phrase", "sentence")]
    assert [Path(each["path"]).is_relative_to(Path("demos").absolute()) for each in sources] == [True, True]
    assert statuses() == {"word": ["done"], "phrase": [], "sentence": []}
