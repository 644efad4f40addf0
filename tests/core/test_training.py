"""A whole run on a toy world: what it leaves, that it continues exactly, and that ranks change nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment, lines, losses, ranks_run, stop_after, weights

from vlrun.config.experiment import load_experiment
from vlrun.engine.checkpoints import Checkpoints, open_checkpoint
from vlrun.engine.device_copies import DeviceCopies
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError, StoppedOnRequest
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run
from vlrun.runs.run import run_experiment


def test_a_run_leaves_everything_that_is_promised(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    names = {path.name for path in result.folder.iterdir()}
    assert {"config.yaml", "command.txt", "environment.json", "data.json", "metrics.jsonl", "status.json"} <= names
    assert (world / "runs" / "toy" / "latest").resolve() == result.folder
    assert json.loads((result.folder / "status.json").read_text())["status"] == "done"
    assert len(losses(result)) == 3 * (23 // 6)
    finals = [row for row in lines(result, "result") if row["final"]]
    assert [(row["split"], row["name"], row["count"]) for row in finals] == [
        ("val", "accuracy", 13),
        ("test", "accuracy", 11),
    ]
    assert "best on val" in finals[0]["protocol"]["checkpoint"]
    assert (result.rows[0].published, result.rows[1].published) == (12.5, None)
    predictions = (result.folder / "predictions" / "match_test.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in predictions] == [f"test-{index}" for index in range(11)]


def test_the_resolved_configuration_runs_again_and_gives_the_same(world: Path, plugins: Plugins) -> None:
    first = run_experiment(experiment(world, plugins), plugins=plugins)
    again = load_experiment(first.folder / "config.yaml", plugins=plugins)
    second = run_experiment(again, plugins=plugins)
    assert second.folder != first.folder
    assert losses(second) == losses(first)


@pytest.mark.parametrize("looks", [1, 4, 8], ids=["mid-epoch", "second epoch", "evaluation"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_stopped_run_continues_bit_for_bit(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, looks: int, micro_batches: int
) -> None:
    unbroken = run_experiment(experiment(world, plugins, f"train.micro_batches={micro_batches}"), plugins=plugins)
    broken = experiment(world, plugins, f"train.micro_batches={micro_batches}", runs_root="broken")
    with monkeypatch.context() as patch:
        stop_after(patch, looks)
        with pytest.raises(StoppedOnRequest, match="--resume"):
            run_experiment(broken, plugins=plugins)
    status = json.loads((world / "broken" / "toy" / "latest" / "status.json").read_text())
    assert status["status"] == "stopped"
    resumed = run_experiment(broken, plugins=plugins, continues=True)
    assert losses(resumed) == losses(unbroken)
    assert all(torch.equal(tensor, weights(unbroken)[name]) for name, tensor in weights(resumed).items())
    assert [row.score.value for row in resumed.rows] == [row.score.value for row in unbroken.rows]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run_experiment(experiment(world, plugins, "train.checkpoint_every=1"), plugins=plugins)
    broken = experiment(world, plugins, "train.checkpoint_every=1", runs_root="broken")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedOnRequest):
            run_experiment(broken, plugins=plugins)
    folder = (world / "broken" / "toy" / "latest").resolve()
    newest = sorted((folder / "checkpoints").glob("step_*"))[-1]
    damaged = bytearray((newest / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (newest / "model.safetensors").write_bytes(bytes(damaged))
    with pytest.raises(CheckpointError, match=r"model.safetensors does not agree with its hash"):
        open_checkpoint(newest)
    assert losses(run_experiment(broken, plugins=plugins, continues=True)) == losses(unbroken)


def test_a_run_that_is_killed_while_it_chooses_the_best_checkpoint_chooses_it_when_resumed(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    loaded = experiment(world, plugins, "train.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "mark_best", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(loaded, plugins=plugins)
    resumed = run_experiment(loaded, plugins=plugins, continues=True)
    assert (resumed.folder / "checkpoints" / "best").readlink().name == "step_00000003"
    assert [row["step"] for row in json.loads((resumed.folder / "evaluations.json").read_text())] == [3]


def test_another_configuration_does_not_continue_a_run(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    with pytest.raises(ConfigError, match=r"train.learning_rate: 0.01 -> 0.02"):
        run_experiment(experiment(world, plugins, "train.learning_rate=0.02"), plugins=plugins, continues=True)


def test_continuing_a_run_that_is_done_does_nothing(world: Path, plugins: Plugins) -> None:
    first = run_experiment(experiment(world, plugins), plugins=plugins)
    again = run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert again.was_done
    assert again.folder == first.folder
    assert len(list((world / "runs" / "toy").glob("2*"))) == 1


def test_workers_change_nothing(world: Path, plugins: Plugins) -> None:
    alone = run_experiment(experiment(world, plugins), plugins=plugins)
    with_workers = run_experiment(experiment(world, plugins, "train.workers=2"), plugins=plugins)
    assert losses(with_workers) == losses(alone)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_train_and_score_like_one_process(world: Path, plugins: Plugins, world_size: int) -> None:
    overrides = ("backbone.dropout=0",)
    alone = run_experiment(experiment(world, plugins, *overrides), plugins=plugins)
    results = ranks_run(world, plugins, world_size, *overrides)
    folder, scores = results[0]
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)
    assert all(torch.allclose(tensor, weights(alone)[name], atol=1e-6) for name, tensor in weights(folder).items())
    assert scores == [(row.split, row.score) for row in alone.rows]
    assert all(other == (folder, scores) for other in results)
    predicted = (folder / "predictions" / "match_val.jsonl").read_text()
    assert predicted == (alone.folder / "predictions" / "match_val.jsonl").read_text()


def test_micro_batches_give_the_gradient_of_the_whole_batch(world: Path, plugins: Plugins) -> None:
    whole = run_experiment(experiment(world, plugins, "backbone.dropout=0"), plugins=plugins)
    parts = run_experiment(experiment(world, plugins, "backbone.dropout=0", "train.micro_batches=3"), plugins=plugins)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_with_the_ids(world: Path, plugins: Plugins) -> None:
    poisoned = experiment(world, plugins, "backbone.poison=17", "train.log_every=100")
    with pytest.raises(NonFiniteLossError, match=r"step \d+, task match: .*train-17"):
        run_experiment(poisoned, plugins=plugins)
    status = json.loads((world / "runs" / "toy" / "latest" / "status.json").read_text())
    assert status["status"] == "failed"
    assert not list((world / "runs" / "toy" / "latest" / "checkpoints").glob("step_*"))


def test_precisions_other_than_float32_train_and_resume(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = experiment(world, plugins, "train.precision=bf16")
    unbroken = run_experiment(loaded, plugins=plugins)
    broken = experiment(world, plugins, "train.precision=bf16", runs_root="broken")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run_experiment(broken, plugins=plugins)
    assert losses(run_experiment(broken, plugins=plugins, continues=True)) == losses(unbroken)


def test_a_step_that_does_not_fit_into_memory_says_what_would(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(toy.ToyHead, "forward", full)
    with pytest.raises(ConfigError, match=r"Raise train.micro_batches \(now 1; the gradient stays the same\)"):
        run_experiment(experiment(world, plugins), plugins=plugins)


def test_memory_that_is_short_for_the_next_batch_is_explained_too(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, copied = DeviceCopies.start, []

    def full(*arguments: Any) -> Any:
        copied.append(arguments)
        if len(copied) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return start(*arguments)

    monkeypatch.setattr(DeviceCopies, "start", full)
    with pytest.raises(ConfigError, match="a step does not fit into the memory of the GPU"):
        run_experiment(experiment(world, plugins), plugins=plugins)


def test_predictions_survive_a_metric_that_refuses_them(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("these predictions do not fit")

    monkeypatch.setattr(toy.Accuracy, "__call__", refuse)
    with pytest.raises(DataError, match="do not fit"):
        run_experiment(experiment(world, plugins, "train.epochs=0"), plugins=plugins)
    folder = (world / "runs" / "toy" / "latest").resolve()
    assert len((folder / "predictions" / "match_val.jsonl").read_text().splitlines()) == toy.SIZES["val"]


def test_no_epochs_only_evaluates(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins, "train.epochs=0"), plugins=plugins)
    assert [row.score.count for row in result.rows] == [13, 11]
    protocol = result.rows[0].score.protocol
    assert protocol["checkpoint"] == "as built"
    assert protocol["annotations"] == "val"  # of the dataset, which the metric says nothing of


def test_images_without_features_stop_the_run_before_it_starts(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "NUM_IMAGES", 9)  # the dataset now needs two images that the store lacks
    with pytest.raises(DataError, match=r"lacks 2 images.*img7, img8|img7"):
        run_experiment(experiment(world, plugins), plugins=plugins)


class FewerImages(toy.ToyTask):
    """Asks for no image but the example's own."""

    def pairs(self, example: Any, rng: Any) -> list[Any]:
        return [toy.Pair(example.text, example.image_ids[0])] * 2


def test_images_without_features_can_be_left_out_and_the_score_says_so(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "ToyTask", FewerImages)
    monkeypatch.setattr(toy, "NUM_IMAGES", 9)
    loaded = experiment(world, plugins, "tasks.0.dataset.allow_missing_features=true")
    result = run_experiment(loaded, plugins=plugins)
    score = result.rows[0].score
    assert score.count == 13 - 2
    assert "2 examples: their images have no features" in score.protocol["left out"]


def test_images_that_are_left_out_with_their_examples_leak_nothing(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "ToyTask", FewerImages)
    monkeypatch.setattr(toy, "NUM_IMAGES", 9)  # the store has seven
    loaded = experiment(world, plugins, "tasks.0.dataset.allow_missing_features=true")
    score = run_experiment(loaded, plugins=plugins).rows[0].score
    assert " of 7 images seen in training" in score.protocol["leak"]


def test_the_end_of_an_epoch_is_saved_once(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Checkpoints.save

    def counted(self: Checkpoints, progress: Any, *others: Any) -> Any:
        saved.append(progress.step)
        return save(self, progress, *others)

    monkeypatch.setattr(Checkpoints, "save", counted)
    run_experiment(experiment(world, plugins, "train.checkpoint_every=1"), plugins=plugins)
    assert saved == list(range(1, len(saved) + 1))


def test_more_processes_than_examples_in_a_batch_is_a_clear_error(world: Path, plugins: Plugins) -> None:
    with pytest.raises(AssertionError, match="leave nothing to train on"):
        ranks_run(world, plugins, 2, "train.batch_size=1")


def write_answers(self: toy.ToyTask, predictions: Any, path: Path) -> None:
    path.write_text(json.dumps([{"id": prediction.id, **prediction.fields} for prediction in predictions]))


@pytest.fixture
def hidden_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy split ``test`` has no ground truth."""
    inner = toy.ToyDataset.__getitem__

    def hidden(self: toy.ToyDataset, index: int) -> Any:
        example = inner(self, index)
        return replace(example, target=None) if self.split == "test" else example

    monkeypatch.setattr(toy.ToyDataset, "__getitem__", hidden)


@pytest.mark.usefixtures("hidden_test")
def test_a_hidden_split_is_predicted_and_submitted_but_not_scored(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.ToyTask, "submission_suffix", ".json")
    monkeypatch.setattr(toy.ToyTask, "write_submission", write_answers)
    result = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)
    assert [row.split for row in result.rows] == ["val"]
    submitted = json.loads((result.folder / "submission" / "match_test.json").read_text())
    assert [row["id"] for row in submitted] == [f"test-{index}" for index in range(11)]
    assert {path.name for path in (result.folder / "submission").iterdir()} == {"match_val.json", "match_test.json"}

    with pytest.raises(DataError, match=r"put a split with known answers first in dataset.evaluate$"):
        run_experiment(experiment(world, plugins, "tasks.0.dataset.evaluate=[test, val]"), plugins=plugins)


ALL_HIDDEN = "tasks.0.dataset.evaluate=[test]"


@pytest.mark.usefixtures("hidden_test")
def test_hidden_splits_alone_are_predicted_with_the_last_checkpoint(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins, ALL_HIDDEN, "train.final_checkpoint=last"), plugins=plugins)
    assert result.rows == []
    assert lines(result, "result") == [], "nothing is scored between epochs either"
    assert len((result.folder / "predictions" / "match_test.jsonl").read_text().splitlines()) == toy.SIZES["test"]
    assert not (result.folder / "checkpoints" / "best").exists()
    assert lines(result, "step")[-1]["step"] == len(losses(result)) == 3 * (toy.SIZES["train"] // 6)

    scored = experiment(world, plugins, "tasks.0.dataset.evaluate=[val]", "train.epochs=0")
    alone = Ranks(0, 1, torch.device("cpu"))
    (row,) = evaluate_run(OpenedRun(RunFolder(result.folder), scored, plugins), alone, Reporters([]))
    assert row.score.protocol["checkpoint"] == f"last (step {len(losses(result))})"


@pytest.mark.usefixtures("hidden_test")
def test_hidden_splits_alone_cannot_choose_the_best_checkpoint(world: Path, plugins: Plugins) -> None:
    with pytest.raises(DataError, match=r"'test' is hidden.*or, as all .*set train.final_checkpoint=last"):
        run_experiment(experiment(world, plugins, ALL_HIDDEN), plugins=plugins)


def test_hidden_images_change_what_the_model_sees_and_mark_the_scores(world: Path, plugins: Plugins) -> None:
    seen = run_experiment(experiment(world, plugins), plugins=plugins)
    blank = run_experiment(experiment(world, plugins, "tasks.0.dataset.hide_images=true"), plugins=plugins)
    assert losses(blank) != losses(seen)
    assert blank.rows[0].score.protocol["images"] == "hidden"
    assert "images" not in seen.rows[0].score.protocol


def test_a_head_that_means_something_else_is_refused(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    meaning = {"answers": ["yes", "no"]}
    monkeypatch.setattr(toy.ToyTask, "head_meaning", lambda self: meaning)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    meaning["answers"] = ["no", "yes"]
    with pytest.raises(CheckpointError, match="trained with 2 answers, this run has 2; number 0 was 'yes', now 'no'"):
        run_experiment(experiment(world, plugins), plugins=plugins, continues=True)


def test_a_checkpoint_that_does_not_say_what_its_head_means_is_taken_with_a_remark(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version wrote it. Sizes are compared all the same; the order cannot be."""
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    monkeypatch.setattr(toy.ToyTask, "head_meaning", lambda self: {"answers": ["yes", "no"]})
    remarks: list[str] = []
    monkeypatch.setattr(Reporters, "note", lambda self, message: remarks.append(message))
    opened = OpenedRun(RunFolder(result.folder), experiment(world, plugins, "train.epochs=0"), plugins, "last")
    for file in (result.folder / "checkpoints").glob("step_*/heads.json"):
        file.unlink()
        manifest = json.loads((file.parent / "manifest.json").read_text())
        del manifest["heads.json"]
        (file.parent / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate_run(opened, Ranks(0, 1, torch.device("cpu")), Reporters([]))
    (remark,) = [remark for remark in remarks if "does not say what the head of task 'match' means" in remark]
    assert "its order is taken as this run's" in remark


@pytest.mark.slow
@pytest.mark.parametrize("options", [["train.drop_last=false"], ["train.checkpoint_every=2", "train.batch_size=8"]])
def test_with_two_micro_batches_one_process_and_two_train_alike_to_the_last_bit(
    world: Path, plugins: Plugins, options: list[str]
) -> None:
    alone = run_experiment(experiment(world, plugins, "train.micro_batches=2", *options), plugins=plugins)
    plain = run_experiment(experiment(world, plugins, *options, runs_root="plain"), plugins=plugins)
    found = ranks_run(world, plugins, 2, "train.micro_batches=2", *options)
    folder = found[0][0]
    assert all(torch.equal(tensor, weights(folder)[name]) for name, tensor in weights(alone).items())
    assert [score.value for _, score in found[0][1]] == [row.score.value for row in alone.rows]
    assert not all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(alone).items()), "dropout"
    assert losses(folder) == losses(alone)


def test_processes_that_do_not_divide_the_micro_batches_share_them_all_the_same(world: Path, plugins: Plugins) -> None:
    alone = run_experiment(experiment(world, plugins, "train.micro_batches=3"), plugins=plugins)
    found = ranks_run(world, plugins, 2, "train.micro_batches=3")
    assert losses(found[0][0]) == pytest.approx(losses(alone), rel=1e-5)
    with pytest.raises(ConfigError, match="micro_batches 9 is more than batch_size 8"):
        experiment(world, plugins, "train.micro_batches=9", "train.batch_size=8")
