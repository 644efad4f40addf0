"""What an experiment file may say about the task, and what it is told where that is wrong or files are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlrun import ConfigError, Experiment, load_experiment
from vlrun.foreign.yaml import dump_yaml
from vlrun_retrieval.config import MatchingConfig, MiningSchedule, RetrievalConfig

DATASET = {"name": "flickr30k", "annotations": "annotations", "features": "features", "evaluate": ["val"]}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """``load(task options, *overrides)``: an experiment with that task, read from a file."""

    def of(options: dict[str, Any], *overrides: str) -> Experiment:
        content = {
            "backbone": {"name": "rosita"},
            "tasks": [{"name": "retrieval", "dataset": DATASET, **options}],
            "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
        }
        (tmp_path / "experiment.yaml").write_text(dump_yaml(content))
        return load_experiment(tmp_path / "experiment.yaml", [f"data_root={tmp_path}", *overrides])

    return of


def task_of(experiment: Experiment) -> RetrievalConfig:
    config = experiment.tasks[0]
    assert isinstance(config, RetrievalConfig)
    return config


def test_the_defaults_are_rosita_s_with_random_negatives(load: Any) -> None:
    config = task_of(load({}))
    assert (config.loss, config.negatives.name, config.negatives.schedule) == ("triple", "random", None)
    assert isinstance(config, MatchingConfig)
    assert config.protocols == ["all"]


def test_mining_starts_from_the_counts_of_rosita(load: Any) -> None:
    config = task_of(load({"negatives": {"name": "mined", "every": 2}}))
    assert config.negatives.schedule == MiningSchedule(candidates=128, keep=5, every=2, from_epoch=0)


def test_the_resolved_experiment_says_the_same_again(load: Any, tmp_path: Path) -> None:
    first = load({"loss": "four-way", "negatives": {"name": "mined", "keep": 3}})
    (tmp_path / "again.yaml").write_text(first.as_yaml())
    assert task_of(load_experiment(tmp_path / "again.yaml")) == task_of(first)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (MiningSchedule(1, 1, every=1, from_epoch=0), [0, 1, 2, 3, 4, 5]),
        (MiningSchedule(1, 1, every=2, from_epoch=0), [0, 0, 2, 2, 4, 4]),
        (MiningSchedule(1, 1, every=1, from_epoch=3), [None, None, None, 3, 4, 5]),
        (MiningSchedule(1, 1, every=2, from_epoch=3), [None, None, None, None, 4, 4]),
    ],
)
def test_an_epoch_trains_with_the_newest_mining_due(schedule: MiningSchedule, due: list[int | None]) -> None:
    assert [schedule.due_epoch(epoch) for epoch in range(6)] == due


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "triplet"}, r"tasks\.0\.loss: .*'triple', 'four-way' or 'contrastive' \(got 'triplet'\)"),
        ({"negatives": {"name": "hard"}}, r"tasks\.0\.negatives\.name: .*'mined' or 'pool' \(got 'hard'\)"),
        ({"negatives": "mined"}, r"tasks\.0\.negatives: .*\(got 'mined'\)"),
        (
            {"negatives": {"name": "mined", "candidate": 9}},
            r"negatives\.candidate: unknown option\. Did you mean 'candidates'\?",
        ),
        (
            {"negatives": {"name": "random", "keep": 3}},
            r"negatives: 'random' takes no option 'keep' \(it takes: none\)",
        ),
        (
            {"negatives": {"name": "pool", "every": 3, "file": "a.npz"}},
            r"negatives: 'pool' takes no option 'every' \(it takes: file\)",
        ),
        ({"negatives": {"name": "mined", "candidates": 4}}, r"negatives: 'mined' cannot keep 5 of 4 candidates"),
        ({"negatives": {"name": "pool"}}, r"negatives: 'pool' needs the option 'file'.*runner mine-negatives RUN"),
        (
            {"negatives": {"name": "pool", "file": "hard_negative.pkl"}},
            r"negatives: 'pool' needs.*; this is hard_negative\.pkl",
        ),
    ],
)
def test_wrong_options_are_explained(load: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(options)


def test_another_kind_may_be_given_on_the_command_line(load: Any) -> None:
    mined = {"negatives": {"name": "mined", "candidates": 9}}
    with pytest.raises(ConfigError, match="'random' takes no option 'candidates'"):
        load(mined, "tasks.0.negatives.name=random")
    assert task_of(load(mined, "tasks.0.negatives={name: random}")).negatives.name == "random"


def test_a_missing_pool_file_comes_with_the_command_that_makes_it(load: Any, tmp_path: Path) -> None:
    experiment = load({"negatives": {"name": "pool", "file": "hard/flickr30k.npz"}})
    wanted = tmp_path / "hard/flickr30k.npz"
    [file] = [file for file in experiment.missing_files() if file.path == wanted]
    assert f"runner mine-negatives RUN --out {wanted}" in file.remedy.splitlines()
    wanted.parent.mkdir()
    wanted.touch()
    assert wanted not in [file.path for file in experiment.missing_files()]


@pytest.mark.parametrize("kind", [{"name": "mined"}, {"name": "pool", "file": "hard.npz"}])
def test_the_demo_mines_few_negatives_itself(load: Any, kind: dict[str, Any]) -> None:
    overrides = task_of(load({"negatives": kind, "validation_images": 1000})).demo_overrides()
    assert overrides["negatives"] == {"name": "mined", "candidates": 8, "keep": 3, "every": 2, "from_epoch": 1}
    assert (overrides["validation_images"], overrides["rerank"]) == (None, None)


def test_the_demo_leaves_negatives_alone_that_need_no_model(load: Any) -> None:
    assert "negatives" not in task_of(load({"negatives": {"name": "in-batch"}})).demo_overrides()


@pytest.mark.parametrize(
    ("protocols", "in_demo"),
    [(["5-fold-1k"], ["all"]), (["first-five", "5-fold-1k"], ["first-five"]), (["first-caption"], ["first-caption"])],
)
def test_the_demo_has_no_protocol_of_a_fixed_number_of_images(
    load: Any, protocols: list[str], in_demo: list[str]
) -> None:
    assert task_of(load({"protocols": protocols})).demo_overrides()["protocols"] == in_demo
