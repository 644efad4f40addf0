"""Weights of our own runs: exported once, loaded like imported ones, and their images are remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment, lines, weights

from vlrun.cli import main
from vlrun.data.leaks import describe_declared, find_leaks
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import ImportReport, read_imported, write_imported
from vlrun.engine.weight_summary import inspect_weights
from vlrun.engine.weights import load_weights
from vlrun.errors import CheckpointError, DataError
from vlrun.plugins.manager import Plugins
from vlrun.runs.export import export_weights
from vlrun.runs.run import RunResult, run_experiment

IMAGES = [f"img{index}" for index in range(toy.NUM_IMAGES)]


class MatchingHead(toy.ToyHead):
    """A task's head that trains the backbone's own matching head beside its own layers."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone.hidden_size)
        self.matching = backbone.matching_head()

    def forward(self, output: Any) -> Any:
        return super().forward(output) + self.matching(output.pooled).unflatten(0, (-1, 2)).sum(1)


@pytest.fixture
def with_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.ToyTask, "build_head", lambda task, backbone: MatchingHead(backbone))


def trained(world: Path, plugins: Plugins, *overrides: str) -> RunResult:
    return run_experiment(experiment(world, plugins, "train.epochs=1", *overrides), plugins=plugins)


def exported(world: Path, plugins: Plugins, run: RunResult, *overrides: str, **options: Any) -> ImportReport:
    loaded = experiment(world, plugins, "train.epochs=1", *overrides)
    return export_weights(RunFolder(run.folder), loaded, world / "toy.safetensors", plugins, **options)


@pytest.mark.usefixtures("with_matching")
def test_a_run_becomes_weights_with_its_matching_head(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)
    report = exported(world, plugins, run, checkpoint="last")

    backbone = toy.ToyBackbone(toy.ToyConfig(name="toy"))
    loaded = load_weights(backbone, report.out)

    assert (loaded.missing, loaded.unexpected) == ((), ())
    ours = {name: tensor for name, tensor in weights(run).items() if name.startswith("backbone.")}
    assert {f"backbone.{name}" for name in backbone.state_dict()} == set(ours)
    assert all(torch.equal(tensor, ours[f"backbone.{name}"]) for name, tensor in backbone.state_dict().items())
    assert report.left_behind == ("heads.match (2 tensors)",)


def test_a_matching_head_that_no_task_has_used_stays_behind(world: Path, plugins: Plugins) -> None:
    """Else other runs would take random numbers for a head of pre-training."""
    report = exported(world, plugins, trained(world, plugins))

    loaded = load_weights(toy.ToyBackbone(toy.ToyConfig(name="toy")), report.out)

    assert loaded.missing == ("itm.weight", "itm.bias")
    assert report.left_behind == ("backbone.itm (2 tensors)", "heads.match (2 tensors)")


def test_the_header_says_where_they_come_from(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)
    report = exported(world, plugins, run)
    _, metadata = read_imported(report.out, header_only=True)
    step = lines(run, "step")[-1]["step"]
    assert (metadata["backbone"], metadata["format"], metadata["vocabulary_hash"]) == ("toy", "run", "toy")
    assert metadata["source"] == f"toy/{run.folder.name}, step {step}"
    assert metadata["pretraining_sets"] == IMAGES
    assert json.loads(report.manifest.read_text())["pretraining_sets"] == IMAGES
    assert "pretraining_sets: 7 images by id" in inspect_weights(report.out, {}).lines()


def test_the_same_export_gives_the_same_bytes(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)
    first = exported(world, plugins, run).out.read_bytes()
    assert exported(world, plugins, run).out.read_bytes() == first


def test_a_checkpoint_can_be_chosen(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)
    by_name = exported(world, plugins, run, checkpoint="last").out.read_bytes()
    folder = run.folder / "checkpoints" / "last"
    assert exported(world, plugins, run, checkpoint=str(folder)).out.read_bytes() == by_name
    with pytest.raises(CheckpointError, match="there is no such checkpoint folder"):
        exported(world, plugins, run, checkpoint="first")


def test_a_run_without_checkpoints_has_nothing_to_export(world: Path, plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        export_weights(RunFolder(tmp_path), experiment(world, plugins), tmp_path / "w.safetensors", plugins)


def test_weights_of_another_vocabulary_are_refused(world: Path, plugins: Plugins) -> None:
    report = exported(world, plugins, trained(world, plugins))
    backbone = toy.ToyBackbone(toy.ToyConfig(name="toy"))
    backbone.vocabulary_hash = "other"
    with pytest.raises(CheckpointError, match="made for vocabulary toy, this backbone has other"):
        load_weights(backbone, report.out)


def test_a_run_that_starts_from_them_reports_the_images_they_have_seen(world: Path, plugins: Plugins) -> None:
    exported(world, plugins, trained(world, plugins))
    run = trained(world, plugins, f"backbone.weights={world / 'toy.safetensors'}", "train.epochs=0")
    leaks = {row.split: row.score.protocol["leak"] for row in run.rows}
    assert leaks == dict.fromkeys(["val", "test"], "7 of 7 images seen in pre-training (7 images by id)")


def test_a_run_from_weights_with_a_tensor_too_many_stops_before_it_starts(world: Path, plugins: Plugins) -> None:
    report = exported(world, plugins, trained(world, plugins))
    tensors, metadata = read_imported(report.out)
    write_imported(report.out, {**tensors, "project.1.weight": torch.ones(1)}, metadata, [])

    with pytest.raises(CheckpointError, match=r"1 of its tensors have no place in the backbone: 'project.1.weight'"):
        trained(world, plugins, f"backbone.weights={report.out}")


def test_what_a_runs_own_weights_have_seen_is_carried_over(world: Path, plugins: Plugins) -> None:
    first = exported(world, plugins, trained(world, plugins))
    tensors, metadata = read_imported(first.out)
    start = world / "start.safetensors"
    write_imported(start, tensors, {**metadata, "pretraining_sets": ["COCO_*", "elsewhere"]}, [])
    option = f"backbone.weights={start}"
    run = trained(world, plugins, option)
    report = exported(world, plugins, run, option)
    assert read_imported(report.out)[1]["pretraining_sets"] == ["COCO_*", "elsewhere", *IMAGES]

    start.unlink()
    with pytest.raises(CheckpointError, match=r"what those weights have seen has to be recorded.*no such file"):
        exported(world, plugins, run, option)


def test_only_images_that_were_trained_on_are_recorded(world: Path, plugins: Plugins) -> None:
    option = "tasks.0.dataset.limit=3"
    run = trained(world, plugins, option, "train.batch_size=3")
    report = exported(world, plugins, run, option)
    assert read_imported(report.out)[1]["pretraining_sets"] == IMAGES[:3]


def test_images_that_were_taken_out_of_training_are_not_recorded(world: Path, plugins: Plugins) -> None:
    """The toy's splits share all images; with a limit, training keeps those beyond it."""
    run = trained(world, plugins)
    options = ["train.remove_evaluation_images=true"]
    assert read_imported(exported(world, plugins, run, *options).out)[1]["pretraining_sets"] == []


@pytest.mark.parametrize("changed", [0, 1], ids=["first file", "last file"])
def test_an_export_notices_every_training_file_that_has_changed(world: Path, plugins: Plugins, changed: int) -> None:
    option = "tasks.0.dataset.train=[train, test]"
    run = trained(world, plugins, option)
    exported(world, plugins, run, option)
    data = json.loads((run.folder / "data.json").read_text())
    assert [(row["split"], row["examples"], row["annotations"]) for row in data["match"]["train"]] == [
        ("train", 23, "train"),
        ("test", 11, "test"),
    ]
    name = data["match"]["train"][changed]["split"]
    data["match"]["train"][changed]["annotations"] = "another file"
    (run.folder / "data.json").write_text(json.dumps(data))
    message = rf"not those that the run was trained on:\n  {name}: annotations: another file -> {name}$"
    with pytest.raises(DataError, match=message):
        exported(world, plugins, run, option)


def test_an_export_refuses_a_training_file_that_was_not_recorded(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)
    with pytest.raises(DataError, match=r"  test: data\.json of the run does not say which file it was"):
        exported(world, plugins, run, "tasks.0.dataset.train=[train, test]")


def test_what_is_left_out_is_recorded_for_each_training_split(world: Path, plugins: Plugins) -> None:
    option = "tasks.0.dataset={name: toys, annotations: ., features: toys.lmdb, train: [train, test], evaluate: [val]}"
    limited = [option, "tasks.0.dataset.limit=12", "train.batch_size=3"]
    run = trained(world, plugins, *limited)
    first, second = json.loads((run.folder / "data.json").read_text())["match"]["train"]
    assert (first["examples"], first["left out"]) == (12, "11 examples: only the first 12 are used")
    assert second["examples"] == 11
    assert "left out" not in second


def test_the_name_must_end_in_safetensors(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)
    with pytest.raises(CheckpointError, match=r"toy\.bin: imported weights are a \.safetensors file"):
        export_weights(RunFolder(run.folder), experiment(world, plugins), world / "toy.bin", plugins)


def test_the_command_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "export", str(tmp_path), str(tmp_path / "w.safetensors")]) == 3
    assert "not a run folder" in capsys.readouterr().err


# --- the leak check with single ids ---


def test_patterns_and_single_ids_are_told_apart() -> None:
    assert describe_declared(["COCO_train2014_*", "a", "b"]) == "COCO_train2014_*, 2 images by id"
    assert describe_declared(["n[0-9]"]) == "n[0-9]"


def test_single_ids_find_an_image_under_its_other_spelling() -> None:
    seen = [f"COCO_train2014_{number:012d}" for number in range(100_000)]
    (leak,) = find_leaks({}, {("itr", "val"): ["000000000042", "COCO_val2014_000000100007", "x"]}, [*seen, "dev-*"])
    assert leak.mark == "1 of 3 images seen in pre-training (dev-*, 100,000 images by id)"


def test_no_shared_image_is_no_leak() -> None:
    assert find_leaks({}, {("itr", "val"): ["COCO_val2014_000000000001"]}, ["COCO_train2014_000000000002"]) == []
