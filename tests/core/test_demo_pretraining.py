"""Demos that start from pre-trained weights: which, when they are made, and by whom."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import toy_world as toy

from vlrun import DemoFiles, TaskConfig
from vlrun.cli import main
from vlrun.config.experiment import Experiment, load_experiment
from vlrun.demo import run as demo_run
from vlrun.demo.data import DemoData, DemoDataset
from vlrun.demo.run import load_demo_experiment, prepare_demo_weights
from vlrun.engine.weight_files import read_imported
from vlrun.errors import ConfigError, DataError, RunnerError, StoppedOnRequest
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment


class Provider:
    name = "toys"


OVERRIDES: Mapping[str, Any] = {"train.epochs": 1}


@pytest.fixture
def demo(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world as demo data, an experiment that starts from weights, and the one that makes them."""
    root = world / "data"
    files = DemoDataset(root, root / "toys.lmdb", root / "pictures")
    data = DemoData(Provider(), OVERRIDES, root, DemoFiles(root / "v", 6, 3), {"toys": files})  # type: ignore[arg-type]
    monkeypatch.setattr(demo_run, "prepare_demo", lambda *_, **__: data)
    monkeypatch.setenv("VLRUN_RUNS", str(world / "runs"))
    (world / "pretrain.yaml").write_text(toy.EXPERIMENT)
    (world / "tuned.yaml").write_text("demo_pretraining: pretrain.yaml\n" + toy.EXPERIMENT)
    return world


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> list[Path]:
    """Pre-trainings that were run, here in this process."""
    done: list[Path] = []

    def run(file: Path, runs_root: Path, option: str, overrides: Sequence[str]) -> None:
        loaded = load_demo_experiment(file, [f"runs_root={runs_root}", *overrides], plugins, lambda message: None)
        run_experiment(loaded, plugins=plugins, continues=True)
        done.append(file)

    monkeypatch.setattr(demo_run, "_run_demo", run)
    return done


def tuned(demo: Path, plugins: Plugins, *overrides: str, file: str = "tuned.yaml") -> Experiment:
    return load_demo_experiment(demo / file, list(overrides), plugins, lambda message: None)


def prepare(experiment: Experiment, plugins: Plugins) -> tuple[list[str], list[str]]:
    progress: list[str] = []
    announced: list[str] = []
    prepare_demo_weights(experiment, plugins, progress.append, announced.append)
    return progress, announced


# --- which weights ---


def test_parameter_groups_of_a_demo_come_after_those_of_the_file(
    demo: Path, plugins: Plugins, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = toy.EXPERIMENT.replace("train:\n", "train:\n  groups: [{match: 'heads.*', rate: 2}]\n")
    (demo / "grouped.yaml").write_text(grouped)
    monkeypatch.setattr(TaskConfig, "demo_groups", lambda self: [{"match": "*bias", "rate": 3.0}])
    groups = tuned(demo, plugins, file="grouped.yaml").train.groups
    assert [(group.match, group.rate) for group in groups] == [("heads.*", 2.0), ("*bias", 3.0)]
    assert [group.rate for group in tuned(demo, plugins, "train.groups=[]").train.groups] == []


def test_the_demo_starts_from_weights_named_after_the_pretraining(demo: Path, plugins: Plugins, runs: Any) -> None:
    experiment = tuned(demo, plugins)
    weights = experiment.backbone.weights
    assert weights is not None
    assert weights.parent == demo / "data" / "pretrained"
    assert weights.name.startswith("pretrain-")
    assert experiment.demo_weights == weights
    assert str(weights) in experiment.as_yaml()
    assert experiment.missing_files() == [], "it is made when the run starts"
    assert (runs, weights.exists()) == ([], False), "reading a configuration trains nothing"


@pytest.mark.parametrize("given", ["null", "mine.safetensors"])
def test_what_a_user_gives_counts(given: str, demo: Path, plugins: Plugins, runs: Any) -> None:
    experiment = tuned(demo, plugins, f"backbone.weights={given}")
    assert experiment.backbone.weights == (None if given == "null" else demo / "data" / given)
    assert experiment.demo_weights is None
    assert prepare(experiment, plugins) == ([], [])
    assert runs == []


def test_another_backbone_of_the_command_line_gets_the_demos_values(demo: Path, plugins: Plugins) -> None:
    """The whole section is laid under them, and what it names counts."""
    experiment = tuned(demo, plugins, "backbone={name: twin, dropout: 0.4}")
    assert (experiment.backbone.name, experiment.backbone.dropout) == ("twin", 0.4)  # type: ignore[attr-defined]
    assert experiment.demo_weights is not None
    assert tuned(demo, plugins, "backbone={name: twin, weights: null}").backbone.weights is None
    one = tuned(demo, plugins, "train={epochs: 7, batch_size: 4, learning_rate: 1}")
    assert (one.train.epochs, one.train.batch_size) == (7, 4), "the demo has one epoch"


def test_without_the_option_a_demo_starts_from_random_weights(demo: Path, plugins: Plugins) -> None:
    assert tuned(demo, plugins, file="toy.yaml").backbone.weights is None


def test_the_name_changes_with_the_pretraining_and_with_nothing_else(
    demo: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tuned(demo, plugins).backbone.weights
    monkeypatch.setenv("VLRUN_RUNS", str(demo / "elsewhere"))
    (demo / "pretrain.yaml").write_text("# a comment\n" + toy.EXPERIMENT)
    assert tuned(demo, plugins, "train.learning_rate=3").backbone.weights == before
    (demo / "pretrain.yaml").write_text(toy.EXPERIMENT.replace("1e-2", "2e-2"))
    assert tuned(demo, plugins).backbone.weights != before


def test_the_name_changes_with_the_code(demo: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tuned(demo, plugins).backbone.weights
    monkeypatch.setattr(demo_run, "code_hash", lambda modules: "another")
    assert tuned(demo, plugins).backbone.weights != before


def test_a_demo_from_pictures_starts_from_a_pretraining_on_pictures(
    demo: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_pictures(file: Path) -> Experiment:
        return load_demo_experiment(file, [], plugins, lambda message: None, from_pictures=True)

    made: list[str] = []
    monkeypatch.setattr(demo_run, "_run_demo", lambda file, runs_root, option, overrides: made.append(option))
    experiment = from_pictures(demo / "tuned.yaml")
    assert experiment.demo == "pictures"
    assert experiment.backbone.weights != tuned(demo, plugins).backbone.weights
    with pytest.raises(DataError, match="has left no run"):
        prepare(experiment, plugins)
    assert made == ["--demo-pictures"]

    (demo / "again.yaml").write_text(experiment.as_yaml())
    assert tuned(demo, plugins, file="again.yaml").as_yaml() == experiment.as_yaml()
    (demo / "other.yaml").write_text(tuned(demo, plugins).as_yaml())
    with pytest.raises(ConfigError, match=r"other\.yaml: this demo does not start from pictures"):
        from_pictures(demo / "other.yaml")


# --- when they are made ---


def test_they_are_made_once_and_then_reused(demo: Path, plugins: Plugins, runs: list[Path]) -> None:
    experiment = tuned(demo, plugins)
    progress, (announced,) = prepare(experiment, plugins)
    assert "no pre-trained demo weights yet: running" in announced
    assert f"they are kept in {demo / 'data' / 'pretrained'}" in announced
    assert (progress, runs) == ([], [demo / "pretrain.yaml"])
    _, metadata = read_imported(experiment.backbone.weights)  # type: ignore[arg-type]
    assert metadata["format"] == "run"

    (reused,), announced_again = prepare(experiment, plugins)
    assert "reused" in reused
    assert (announced_again, len(runs)) == ([], 1)

    result = run_experiment(experiment, plugins=plugins)
    assert all("pre-training (7 images by id)" in row.score.protocol["leak"] for row in result.rows)


def test_a_run_folders_configuration_finds_them_or_makes_them_again(
    demo: Path, plugins: Plugins, runs: list[Path]
) -> None:
    experiment = tuned(demo, plugins)
    prepare(experiment, plugins)
    folder = run_experiment(experiment, plugins=plugins).folder
    again = tuned(demo, plugins, file=str(folder / "config.yaml"))
    assert again.demo_weights == experiment.demo_weights
    assert prepare(again, plugins)[1] == []

    before = experiment.backbone.weights.read_bytes()  # type: ignore[union-attr]
    again.demo_weights.unlink()  # type: ignore[union-attr]
    assert len(prepare(again, plugins)[1]) == 1
    assert again.demo_weights.read_bytes() == before  # type: ignore[union-attr]


def test_a_demo_runs_folder_is_valid_without_them(
    demo: Path, plugins: Plugins, runs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tuned(demo, plugins)
    prepare(experiment, plugins)
    folder = run_experiment(experiment, plugins=plugins).folder
    experiment.backbone.weights.unlink()  # type: ignore[union-attr]
    monkeypatch.setattr("vlrun.plugins.manager.create_plugins", lambda: plugins)
    assert main(["validate", str(folder)]) == 0
    assert "tuned: ok" in capsys.readouterr().out


def test_weights_of_another_version_are_not_replaced_by_others(demo: Path, plugins: Plugins, runs: list[Path]) -> None:
    experiment = tuned(demo, plugins)
    (demo / "pretrain.yaml").write_text(toy.EXPERIMENT.replace("1e-2", "2e-2"))
    with pytest.raises(DataError, match=r"cannot be made again, because the code or .*pretrain\.yaml has changed"):
        prepare(experiment, plugins)
    assert runs == []


def _prepare_slowly(experiment: Experiment, plugins: Plugins, log: Path) -> None:
    def make(file: Path, weights: Path, *_: Any) -> None:
        with log.open("a") as notes:
            notes.write("made\n")
        time.sleep(0.2)
        weights.touch()

    demo_run._make_weights = make
    prepare_demo_weights(experiment, plugins, lambda message: None, lambda message: None)


def test_of_processes_that_start_at_once_one_works(demo: Path, plugins: Plugins) -> None:
    experiment, log = tuned(demo, plugins), demo / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare_slowly, args=(experiment, plugins, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "made\n"


# --- who makes them ---


class Child:
    """In place of the process that would train."""

    status = 0
    seen: ClassVar[dict[str, Any]] = {}

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        Child.seen = {"command": command, "env": env, "signals": []}

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> int:
        if Child.status == StoppedOnRequest.exit_status:
            signal.raise_signal(signal.SIGTERM)
        return Child.status

    def send_signal(self, number: int) -> None:
        Child.seen["signals"].append(number)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> type[Child]:
    monkeypatch.setattr(subprocess, "Popen", Child)
    monkeypatch.setattr(Child, "status", 0)
    return Child


def test_the_pretraining_is_a_command_of_its_own_outside_of_any_launcher(
    child: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLRUN_CACHE", "/somewhere")
    demo_run._run_demo(Path("/x/pretrain.yaml"), tmp_path, "--demo", ["backbone.dropout=0"])
    assert child.seen["command"][1:] == [
        *("-m", "vlrun", "run", "/x/pretrain.yaml", "backbone.dropout=0"),
        *("--demo", "--resume", "--output", str(tmp_path)),
    ]
    assert child.seen["command"][0] == sys.executable
    left = {name for name in child.seen["env"] if name in {"RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}}
    assert (left, child.seen["env"]["VLRUN_CACHE"]) == (set(), "/somewhere")


@pytest.mark.parametrize(("status", "expected"), [(5, 5), (-9, 1)])
def test_a_failed_pretraining_ends_the_run_with_its_status(
    status: int, expected: int, child: Any, tmp_path: Path
) -> None:
    child.status = status
    with pytest.raises(RunnerError, match=r"has failed, see above: runner run /x/pretrain\.yaml --demo") as caught:
        demo_run._run_demo(Path("/x/pretrain.yaml"), tmp_path, "--demo", [])
    assert caught.value.exit_status == expected


def test_a_stop_is_passed_on_and_stops_the_run(child: Any, tmp_path: Path) -> None:
    child.status = StoppedOnRequest.exit_status
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedOnRequest, match="the same command continues it"):
        demo_run._run_demo(Path("/x/pretrain.yaml"), tmp_path, "--demo", ["backbone.dropout=0"])
    assert child.seen["signals"] == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


# --- mistakes ---


def test_a_file_that_is_not_there_is_an_error_of_the_experiment(demo: Path, plugins: Plugins) -> None:
    (demo / "tuned.yaml").write_text("demo_pretraining: pretrian.yaml\n" + toy.EXPERIMENT)
    with pytest.raises(ConfigError) as caught:
        load_experiment(demo / "tuned.yaml", plugins=plugins)
    (problem,) = caught.value.problems
    assert problem == (
        f"{demo}/tuned.yaml:1: demo_pretraining: there is no file 'pretrian.yaml' beside this experiment "
        f"(in {demo}: pretrain.yaml, toy.yaml, tuned.yaml)"
    )


def test_a_finished_run_can_be_read_after_the_file_is_gone(demo: Path, plugins: Plugins) -> None:
    (demo / "tuned.yaml").write_text("demo_pretraining: /gone/pretrain.yaml\n" + toy.EXPERIMENT)
    assert load_experiment(demo / "tuned.yaml", plugins=plugins).demo_pretraining == Path("/gone/pretrain.yaml")


def test_the_path_starts_at_the_experiment_file(demo: Path, plugins: Plugins) -> None:
    (demo / "joint").mkdir()
    (demo / "joint" / "both.yaml").write_text("demo_pretraining: ../pretrain.yaml\n" + toy.EXPERIMENT)
    experiment = load_experiment(demo / "joint" / "both.yaml", plugins=plugins)
    assert experiment.demo_pretraining == demo / "pretrain.yaml"


def test_a_pretraining_that_needs_one_itself_is_refused(demo: Path, plugins: Plugins) -> None:
    (demo / "pretrain.yaml").write_text("demo_pretraining: tuned.yaml\n" + toy.EXPERIMENT)
    with pytest.raises(
        ConfigError, match=r"pretrain\.yaml: demo_pretraining: a pre-training cannot start from another"
    ):
        tuned(demo, plugins)


def test_a_pretraining_follows_the_backbone_of_the_experiment(demo: Path, plugins: Plugins, runs: list[Path]) -> None:
    """Changing ``backbone.name`` is all that it takes."""
    before = tuned(demo, plugins).backbone.weights
    (demo / "tuned.yaml").write_text(
        "demo_pretraining: pretrain.yaml\n" + toy.EXPERIMENT.replace("{name: toy}", "{name: twin, dropout: 0.5}", 1)
    )
    experiment = tuned(demo, plugins)
    assert experiment.backbone.name == "twin"
    assert experiment.backbone.weights != before

    prepare(experiment, plugins)

    assert runs == [demo / "pretrain.yaml"]
    _, metadata = read_imported(experiment.backbone.weights)  # type: ignore[arg-type]
    assert metadata["backbone"] == "twin"
    (trained,) = (demo / "data" / "pretrained" / "runs").glob("*/*/latest/config.yaml")
    assert "name: twin\n  weights: null\n  dropout: 0.5" in trained.read_text()
    assert tuned(demo, plugins, file=str(trained)).backbone.name == "twin"
    again = run_experiment(experiment, plugins=plugins).folder
    assert tuned(demo, plugins, file=str(again / "config.yaml")).demo_weights == experiment.demo_weights
