"""Several tasks on one backbone: resumed exactly, the same on any number of ranks, paused and cleaned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment, lines, losses, ranks_run, stop_after, weights

from vlrun import ConfigError
from vlrun.engine import gradients
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.engine.trainer import Trainer
from vlrun.errors import StoppedOnRequest
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run
from vlrun.runs.run import run_experiment

SECOND = """\
  - name: match
    label: other
    loss_weight: 0.5
    batch_size: 4
    dataset: {name: toys, annotations: ., features: toys.lmdb, train: [test], evaluate: [val]}
train:
"""


@pytest.fixture
def joint(world: Path) -> Path:
    (world / "toy.yaml").write_text(toy.EXPERIMENT.replace("train:\n", SECOND))
    return world


def tasks_of(result: Any) -> list[str]:
    return [row["task"] for row in lines(result, "step")]


def test_every_task_is_trained_scored_and_kept_apart(joint: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(joint, plugins), plugins=plugins)
    steps = lines(result, "step")
    assert tasks_of(result).count("match") == 3 * (23 // 6)
    assert tasks_of(result).count("other") == 3 * (11 // 4)
    assert [row["task_epoch"] for row in steps if row["task"] == "other"] == [1, 1, 2, 2, 3, 3]
    assert [(row.task, row.split) for row in result.rows] == [("match", "val"), ("match", "test"), ("other", "val")]
    names = {path.name for path in (result.folder / "checkpoints").iterdir()}
    assert {"best", "best-match", "best-other", "last"} <= names
    assert (result.folder / "predictions" / "other_val.jsonl").exists()

    alone = Ranks(0, 1, torch.device("cpu"))
    later = experiment(joint, plugins, "train.epochs=0")
    opened = OpenedRun(RunFolder(result.folder), later, plugins, labels=["other"])
    again = evaluate_run(opened, alone, Reporters([]))
    assert [row.score.value for row in again] == [result.rows[2].score.value]
    assert again[0].score.protocol["leak"] == result.rows[2].score.protocol["leak"]


@pytest.mark.parametrize("sampling", ["proportional", "{name: weights}", "{name: temperature, temperature: 3.0}"])
def test_a_stopped_joint_run_continues_bit_for_bit(
    joint: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    override = f"train.sampling={sampling}" if "{" in sampling else f"train.sampling.name={sampling}"
    unbroken = run_experiment(experiment(joint, plugins, override), plugins=plugins)
    broken = experiment(joint, plugins, override, runs_root="broken")
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(StoppedOnRequest):
            run_experiment(broken, plugins=plugins)
    resumed = run_experiment(broken, plugins=plugins, continues=True)
    assert tasks_of(resumed) == tasks_of(unbroken)
    assert losses(resumed) == losses(unbroken)
    assert all(torch.equal(tensor, weights(unbroken)[name]) for name, tensor in weights(resumed).items())


def test_two_ranks_train_the_same_tasks_to_the_same_numbers(
    joint: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_dropout = ("backbone.dropout=0.0",)
    alone = run_experiment(experiment(joint, plugins, *no_dropout), plugins=plugins)
    folder = ranks_run(joint, plugins, 2, *no_dropout)[0][0]
    assert tasks_of(folder) == tasks_of(alone)
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)


def test_two_ranks_train_several_compiled_tasks_to_the_same_numbers(
    joint: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("backbone.dropout=0.0", "train.epochs=1")
    alone = run_experiment(experiment(joint, plugins, *options), plugins=plugins)
    compile_for_real = torch.compile
    monkeypatch.setattr(gradients.torch, "compile", lambda model, **_: compile_for_real(model, backend="eager"))
    folder = ranks_run(joint, plugins, 2, *options, "train.compile=true")[0][0]
    assert tasks_of(folder) == tasks_of(alone)
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)


def test_a_task_without_gain_pauses_and_its_steps_are_saved(joint: Path, plugins: Plugins) -> None:
    rule = "train.stop_and_go={patience: 1, min_gain: 200, fall_back: 200}"  # a gain that no accuracy can make
    result = run_experiment(experiment(joint, plugins, rule), plugins=plugins)
    assert {row["epoch"] for row in lines(result, "step")} == {1, 2}  # the first evaluation is always a gain
    status = json.loads((result.folder / "status.json").read_text())
    assert status["status"] == "done"
    assert len(result.rows) == 3


def test_a_task_starts_its_epoch_with_weights_that_have_been_checked(
    joint: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_epoch, unchecked = Trainer.start_epoch, []

    def recorded(trainer: Trainer, task: int, epoch: int) -> None:
        unchecked.append(trainer.unchecked)
        start_epoch(trainer, task, epoch)

    monkeypatch.setattr(Trainer, "start_epoch", recorded)
    sampling = "train.sampling={name: temperature, temperature: 3.0}"  # epochs of tasks begin amid a joint one
    run_experiment(experiment(joint, plugins, sampling, "train.log_every=100"), plugins=plugins)
    assert len(unchecked) > 2 * 3
    assert not any(unchecked)


def test_cleaning_takes_evaluation_images_out_of_training(joint: Path, plugins: Plugins) -> None:
    from vlrun.errors import DataError

    with pytest.raises(DataError, match="leaves nothing to train on"):  # all splits of the toys share their images
        run_experiment(experiment(joint, plugins, "train.remove_evaluation_images=true"), plugins=plugins)


def test_leaks_are_marked_on_the_scores(joint: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(joint, plugins, "train.epochs=1"), plugins=plugins)
    assert "7 of 7 images seen in training of match" in result.rows[0].score.protocol["leak"]
    header = json.loads((result.folder / "data.json").read_text())
    assert "leak" in header["match"]["marks"]["val"]


def test_ranks_that_would_train_different_tasks_stop(
    joint: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlrun.engine import mixing

    order = mixing.TaskMix.order

    def order_of_this_rank(self: mixing.TaskMix, epoch: int) -> list[int]:
        rank, steps = torch.distributed.get_rank(), list(order(self, epoch))
        return steps[rank:] + steps[:rank]

    monkeypatch.setattr(mixing.TaskMix, "order", order_of_this_rank)
    with pytest.raises(AssertionError, match="the ranks disagree on the steps of epoch 1"):
        ranks_run(joint, plugins, 2)


def test_a_label_that_the_record_of_the_data_needs_is_refused(joint: Path, plugins: Plugins) -> None:
    for label in ("weights", "image_identities", "input_files", "accepted_changes", "parameter_groups"):
        with pytest.raises(ConfigError, match=f"data.json of a run keeps something else under '{label}'"):
            experiment(joint, plugins, f"tasks.1.label={label}")
