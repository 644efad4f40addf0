"""Experiment files are checked completely, and every problem says where it is and what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from vlrun import Config, DataPath
from vlrun.cli import main
from vlrun.config.experiment import load_experiment
from vlrun.errors import ConfigError, PluginError, UsageError
from vlrun.foreign.yaml import parse_yaml

PLUGIN = """
    from pydantic import Field, PositiveInt
    from vlrun import BackboneConfig, Entry, hookimpl

    KINDS = {"classify": "class", "find": "box"}
    DATA = {"pets": "class", "maps": "box"}

    class Net(BackboneConfig):
        width: PositiveInt = Field(8, description="hidden size")

    @hookimpl
    def vlrun_backbones():
        return [Entry(name="net", summary="", config="vlrun_toy:Net", factory="builtins:print")]

    @hookimpl
    def vlrun_tasks():
        return [
            Entry(name=name, summary="", config="vlrun:TaskConfig", factory="builtins:print", target=kind)
            for name, kind in KINDS.items()
        ]

    @hookimpl
    def vlrun_metrics():
        return [
            Entry(name=name, summary="", config="vlrun:MetricConfig", factory="builtins:print", target=kind)
            for name, kind in {"hits": "class", "overlap": "box", "any": None}.items()
        ]

    @hookimpl
    def vlrun_datasets():
        return [
            Entry(
                name=name,
                summary="",
                config="vlrun:DatasetConfig",
                factory="builtins:print",
                target=kind,
                obtain=f"ask for {name}.zip",
            )
            for name, kind in DATA.items()
        ]
"""

EXPERIMENT = """\
backbone:
  name: net
  width: 16
tasks:
  - name: classify
    dataset:
      name: pets
      annotations: annotations/pets
      features: features/pets
      evaluate: [val]
train:
  epochs: 3
  batch_size: 32
  learning_rate: 5e-5
"""


@pytest.fixture
def experiment(install: Callable[..., None], tmp_path: Path) -> Path:
    install("vlrun-toy", PLUGIN)
    path = tmp_path / "toy.yaml"
    path.write_text(EXPERIMENT)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return caught.value.problems


def test_a_good_file_gives_every_value_and_absolute_paths(experiment: Path) -> None:
    loaded = load_experiment(experiment, ["data_root=/data"])
    assert loaded.name == "toy"
    assert loaded.train.learning_rate == 5e-5
    assert loaded.tasks[0].dataset.features == Path("/data/features/pets")


def test_an_unknown_option_names_line_and_nearest(experiment: Path) -> None:
    experiment.write_text(EXPERIMENT.replace("learning_rate", "learning_rte"))
    (missing, unknown) = sorted(problems(experiment))
    assert missing.startswith(f"{experiment}:11: train.learning_rate: required option is missing")
    assert unknown == f"{experiment}:14: train.learning_rte: unknown option. Did you mean 'learning_rate'?"


def test_all_problems_come_at_once(experiment: Path) -> None:
    text = (
        EXPERIMENT.replace("width: 16", "widht: 16").replace("epochs: 3", "epochs: many").replace("pets\n", "pest\n", 1)
    )
    experiment.write_text(text + "sede: 1\ntrain: {}\n")
    found = "\n".join(problems(experiment))
    for expected in (
        ":3: backbone.widht: unknown option. Did you mean 'width'?",
        ":7: tasks.0.dataset.name: no dataset 'pest' is installed",
        "Did you mean 'pets'?",
        ":12: train.epochs: ",
        ":15: sede: unknown option. Did you mean 'seed'?",
        ":16: train: duplicate key, first given on line 11",
    ):
        assert expected in found


def test_options_inside_optimizer_and_schedule_are_checked(experiment: Path) -> None:
    found = "\n".join(problems(experiment, "train.optimizer.nmae=adam", "train.schedule={name: stairs}"))
    assert "command line: train.optimizer.nmae: unknown option. Did you mean 'name'?" in found
    assert "command line: train.schedule.name: " in found


def test_a_task_that_does_not_fit_the_dataset_names_those_that_do(experiment: Path) -> None:
    (problem,) = problems(experiment, "tasks.0.dataset.name=maps")
    assert "task 'classify' learns 'class', dataset 'maps' has 'box'. Datasets that fit: pets" in problem


def test_a_metric_about_something_else_names_those_that_fit(experiment: Path) -> None:
    (problem,) = problems(experiment, "tasks.0.metrics=[{name: hits}, {name: overlap}, {name: any}]")
    assert "tasks.0.metrics.1.name: task 'classify' learns 'class', metric 'overlap' is about 'box'" in problem
    assert "Metrics that fit: any, hits;" in problem


def test_a_split_that_the_dataset_does_not_know_is_refused_with_the_nearest(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlrun.config.base.DatasetConfig.known_splits", ("train", "val", "testA"))
    assert problems(experiment, "tasks.0.dataset.evaluate=[val, testa]") == [
        "command line: tasks.0.dataset.evaluate: there is no split 'testa' (known: train, val, testA). "
        "Did you mean 'testA'? (got ['val', 'testa'])"
    ]


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", "''"])
@pytest.mark.parametrize("key", ["name", "tasks.0.dataset.evaluate"])
def test_names_cannot_leave_their_folder(experiment: Path, key: str, name: str) -> None:
    value = f"[{name}]" if key.endswith("evaluate") else name
    (problem,) = problems(experiment, f"{key}={value}")
    assert "it must not be empty, start with a dot, or hold a slash" in problem


@pytest.mark.parametrize("key", ["name", "tasks.0.label", "tasks.0.dataset.evaluate"])
def test_names_control_nothing(experiment: Path, key: str) -> None:
    """A name also becomes a line of a batch script, where another line would be a command."""
    for name in ("a\ntouch x\n#", "a\x1b[2J", "a\x9bm", "a\u2028b", "\u202eb"):
        value = f"[{json.dumps(name)}]" if key.endswith("evaluate") else json.dumps(name)
        (problem,) = problems(experiment, f"{key}={value}")
        assert "it must not hold line breaks or other control characters" in problem


def test_what_is_not_utf8_on_the_command_line_is_a_problem(experiment: Path) -> None:
    """The configuration of a run could not be written."""
    for key in ("name", "tasks.0.dataset.annotations", "runs_root", "seed"):
        found = problems(experiment, f"{key}=/tmp/\udcff/a")
        assert any(f"command line: {key}: not UTF-8" in problem for problem in found), found


EPOCHS = ("1000001", "1" + "0" * 30, "1e30", "9" * 6000, "[" * 5000, ".nan")
HUGE = (
    *("train.batch_size=9999999", "train.micro_batches=9999999", "train.workers=9999", "train.threads=99999"),
    *("train.checkpoint_every=9999999999999", "train.learning_rate=1e300", "tasks.0.max_text_tokens=9999999"),
    *("tasks.0.loss_weight=1e13", "tasks.0.dataset.limit=9999999999999", "seed=1e30", "train.max_grad_norm=.inf"),
)


def test_numbers_that_no_run_can_mean_are_problems(experiment: Path) -> None:
    for value in EPOCHS:
        found = problems(experiment, f"train.epochs={value}")
        assert all("command line: train.epochs: " in problem for problem in found), value
    found = problems(experiment, *HUGE)
    for key in (override.partition("=")[0] for override in HUGE):
        assert any(f"command line: {key}: " in problem for problem in found), key


@pytest.mark.parametrize(
    ("key", "expected"), [("train", "there is no split to train on"), ("evaluate", "at least 1 item")]
)
def test_a_dataset_without_splits_is_refused(experiment: Path, key: str, expected: str) -> None:
    (problem,) = problems(experiment, f"tasks.0.dataset.{key}=[]")
    assert expected in problem


def test_overrides_win_and_are_checked_like_the_file(experiment: Path) -> None:
    assert load_experiment(experiment, ["train.epochs=2", "tasks.0.dataset.evaluate=[a, b]"]).train.epochs == 2
    assert problems(experiment, "train.epohs=2") == [
        "command line: train.epohs: unknown option. Did you mean 'epochs'?"
    ]
    assert "there is no such place" in problems(experiment, "tasks.7.name=x")[0]
    with pytest.raises(UsageError, match=r"write key.path=value"):
        load_experiment(experiment, ["train.epochs"])


def test_null_takes_a_default_away(experiment: Path) -> None:
    assert load_experiment(experiment, ["train.max_grad_norm=null"]).train.max_grad_norm is None


def test_the_environment_sets_the_roots_and_the_command_line_wins(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLRUN_DATA", "/elsewhere")
    monkeypatch.setenv("VLRUN_RUNS", "/runs")
    loaded = load_experiment(experiment)
    assert (loaded.data_root, loaded.runs_root) == (Path("/elsewhere"), Path("/runs"))
    assert load_experiment(experiment, ["data_root=/mine"]).data_root == Path("/mine")


def test_the_resolved_experiment_runs_again_as_it_is(experiment: Path, tmp_path: Path) -> None:
    first = load_experiment(experiment, ["train.epochs=7"])
    again = tmp_path / "other" / "config.yaml"
    again.parent.mkdir()
    again.write_text(first.as_yaml())
    assert load_experiment(again).as_yaml() == first.as_yaml()


def test_print_config_shows_each_value_with_its_origin(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(experiment), "--print-config", "train.epochs=7"]) == 0
    printed = capsys.readouterr().out
    assert "  epochs: 7  # command line" in printed
    assert f"  width: 16  # {experiment}:3" in printed
    assert "seed: 0  # default" in printed
    assert parse_yaml(printed).data == parse_yaml(load_experiment(experiment, ["train.epochs=7"]).as_yaml()).data


def test_a_broken_plugin_as_the_only_cause_is_a_plugin_error(experiment: Path, install: Callable[..., None]) -> None:
    install("vlrun-marvel", "raise RuntimeError('half installed')")
    with pytest.raises(PluginError, match="half installed"):
        load_experiment(experiment, ["backbone={name: marvel}"])


TASK_TEXT = EXPERIMENT[EXPERIMENT.index("  - name") : EXPERIMENT.index("train:")]


def test_two_tasks_of_one_name_need_a_label(experiment: Path) -> None:
    experiment.write_text(EXPERIMENT.replace("train:\n", TASK_TEXT + "train:\n"))
    assert "give one of them a label" in problems(experiment)[0]

    labelled = TASK_TEXT.replace("  - name", "  - label: second\n    name", 1)
    experiment.write_text(EXPERIMENT.replace("train:\n", labelled + "train:\n"))
    assert [task.display_name for task in load_experiment(experiment).tasks] == ["classify", "second"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "is a mapping"), ("- a\n", "is a mapping"), ("backbone: [\n", "not valid YAML")],
    ids=["empty", "list", "broken"],
)
def test_files_that_are_no_experiment_say_so(experiment: Path, content: str, expected: str) -> None:
    experiment.write_text(content)
    assert any(expected in problem for problem in problems(experiment))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["validate", "{experiment}"], 5),
        (["validate", "{experiment}", "train.epohs=1"], 3),
        (["validate", "{experiment}.nowhere"], 3),
        (["validate", "{experiment}", "train.epochs"], 2),
    ],
    ids=["missing files", "typo", "no file", "not an override"],
)
def test_exit_statuses_follow_the_contract(
    experiment: Path, arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(experiment=experiment) for argument in arguments]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_missing_files_are_told_beside_other_problems(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(experiment), "data_root=/nowhere", "train.epohs=1"]) == 3
    printed = capsys.readouterr().err
    assert "train.epohs: unknown option" in printed
    assert f"{experiment}: missing /nowhere/features/pets (region features of pets)" in printed


def test_missing_files_are_listed_with_the_commands_that_make_them(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["validate", str(experiment), "data_root=/nowhere"])
    printed = capsys.readouterr().err
    assert "missing /nowhere/annotations/pets/train.jsonl" in printed
    assert "runner data build pets --from SOURCE PATH /nowhere/annotations/pets" in printed
    assert printed.count("ask for pets.zip") == 1, "where the source of the annotations is, and not of the features"
    assert "missing /nowhere/features/pets" in printed


def test_a_default_path_lies_under_the_data_root_like_one_in_a_file() -> None:
    class Lists(Config):
        words: DataPath = Path("words.txt")
        more: DataPath | None = Field(Path("more.txt"), description="also where it may be null")
        none: DataPath | None = None

    lists = Lists.model_validate({}, context={"data_root": Path("/data")})
    assert (lists.words, lists.more, lists.none) == (Path("/data/words.txt"), Path("/data/more.txt"), None)


def test_a_file_that_is_not_there_is_told_from_its_neighbours(tmp_path: Path) -> None:
    for name in ("rosita_vqa.yaml", "rosita_gqa.yaml", "lxmert_s_ir.yaml"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError) as caught:
        load_experiment(tmp_path / "rosita_vqq.yaml")
    assert f"Did you mean {tmp_path / 'rosita_vqa.yaml'}" in str(caught.value)
    assert "lxmert_s_ir" not in str(caught.value)
    assert "`runner list experiments`" in str(caught.value)
