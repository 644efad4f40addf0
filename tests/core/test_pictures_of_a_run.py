"""Runs whose backbone reads pictures: the rules of region features, from the start to questions and exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import picture_world
import pytest
import torch
import toy_world as toy
from picture_world import SIDE, SeeingBackbone, SeeingConfig
from toy_runs import experiment, losses, ranks_run, stop_after_step, weights

from vlrun import load_experiment, load_run
from vlrun.cli import main
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import read_imported
from vlrun.engine.weights import load_weights
from vlrun.errors import ConfigError, DataError, StoppedOnRequest, UsageError
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.export import export_weights
from vlrun.runs.run import RunResult, run_experiment

SEEING = ("backbone.name=seeing", "tasks.0.dataset.pictures=pictures")


@pytest.fixture(scope="session")
def seeing_plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    return create_plugins([*core, EntryPoint("seeing", "picture_world", "vlrun")])


@pytest.fixture
def pictures(world: Path) -> Path:
    """The folder of pictures; no region features are there."""
    picture_world.write_pictures(world / "data" / "pictures")
    (world / "data" / "toys.lmdb").rename(world / "gone")
    return world / "data" / "pictures"


@pytest.fixture
def run(world: Path, pictures: Path, seeing_plugins: Plugins) -> Callable[..., RunResult]:
    def train(*overrides: str, runs_root: str = "runs", **options: Any) -> RunResult:
        loaded = experiment(world, seeing_plugins, *SEEING, *overrides, runs_root=runs_root)
        return run_experiment(loaded, plugins=seeing_plugins, **options)

    return train


def test_a_store_of_regions_is_named_where_regions_are_read(
    run: Callable[..., RunResult], world: Path, plugins: Plugins
) -> None:
    unnamed = "tasks.0.dataset.features=null"
    assert run("train.epochs=1", unnamed).rows
    with pytest.raises(
        ConfigError, match=r"tasks\.0\.dataset\.features: backbone '.*' reads region features: name the"
    ):
        experiment(world, plugins, unnamed)


def test_a_database_read_by_a_worker_gives_the_numbers_of_a_folder(
    run: Callable[..., RunResult], pictures: Path, world: Path
) -> None:
    picture_world.write_lmdb(pictures, world / "data" / "pictures.lmdb")
    expected = run("train.epochs=1", runs_root="folder")
    of_database = ["tasks.0.dataset.pictures=pictures.lmdb", "train.workers=1"]
    found = run("train.epochs=1", *of_database, runs_root="database")
    assert losses(found) == losses(expected)
    assert all(torch.equal(weights(found)[key], value) for key, value in weights(expected).items())
    assert all("read from pictures" in row.score.protocol["features"] for row in expected.rows)


def test_two_processes_give_the_losses_of_one(world: Path, seeing_plugins: Plugins, pictures: Path) -> None:
    found = [
        ranks_run(world, seeing_plugins, size, *SEEING, "train.epochs=1", "train.micro_batches=2")[0] for size in (1, 2)
    ]
    assert losses(found[0][0]) == pytest.approx(losses(found[1][0]), rel=1e-5)
    assert [score.value for _, score in found[0][1]] == [score.value for _, score in found[1][1]]


def test_a_stopped_run_goes_on_to_the_same_weights(
    run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch, world: Path
) -> None:
    whole = run(runs_root="whole")
    with monkeypatch.context() as patch:
        stop_after_step(patch, 5)
        with pytest.raises(StoppedOnRequest):
            run()
    resumed = run(continues=True)
    assert losses(resumed) == losses(whole)
    assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(whole).items())


def test_a_run_does_not_go_on_with_other_pictures(
    run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        with pytest.raises(StoppedOnRequest):
            run()
    picture_world.picture(60).save(pictures / "img3.png")
    with pytest.raises(DataError, match="features"):
        run(continues=True)


def test_missing_pictures_are_named_before_anything_is_trained(
    run: Callable[..., RunResult], pictures: Path, alone: None
) -> None:
    (pictures / "img3.png").unlink()
    with pytest.raises(DataError, match="img3"):
        run()
    result = run("tasks.0.dataset.allow_missing_features=true", "train.epochs=1")
    assert all("their images have no features" in row.score.protocol["left out"] for row in result.rows)


def test_images_that_are_trained_on_and_evaluated_are_marked(run: Callable[..., RunResult]) -> None:
    result = run("train.epochs=1")
    assert {row.score.protocol["leak"] for row in result.rows} == {"7 of 7 images seen in training of match"}


def test_hidden_pictures_are_black(run: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = SeeingBackbone.forward

    def watching(backbone: Any, encoding: Any) -> Any:
        seen.append(int(encoding.pixels.max()))
        return forward(backbone, encoding)

    monkeypatch.setattr(SeeingBackbone, "forward", watching)
    run("train.epochs=1", "tasks.0.dataset.hide_images=true")
    assert set(seen) == {0}


def test_what_is_meant_for_features_is_refused_or_has_no_effect(run: Callable[..., RunResult]) -> None:
    with pytest.raises(ConfigError, match=r"features\.residency: device, but pictures are decoded by loader workers"):
        run("features.residency=device")
    assert run("features.stage=/nowhere", "train.epochs=0").rows


def test_an_experiment_names_its_pictures(world: Path, seeing_plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.0\.dataset\.pictures: backbone 'seeing' reads pictures: name"):
        experiment(world, seeing_plugins, "backbone.name=seeing")
    roots = [f"data_root={world / 'data'}", f"runs_root={world / 'runs'}", "backbone.name=seeing"]
    loaded = load_experiment(world / "toy.yaml", roots, plugins=seeing_plugins, for_demo=True)
    assert loaded.tasks[0].dataset.pictures is None, "a demo brings its own"


# --- exports ---


def test_a_run_becomes_weights_that_the_next_one_starts_from(
    run: Callable[..., RunResult], world: Path, seeing_plugins: Plugins
) -> None:
    result = run("train.epochs=1")
    loaded = experiment(world, seeing_plugins, *SEEING, "train.epochs=1")
    report = export_weights(RunFolder(result.folder), loaded, world / "data" / "seeing.safetensors", seeing_plugins)

    backbone = SeeingBackbone(SeeingConfig(name="seeing"))
    load_weights(backbone, report.out)
    assert backbone.project.in_features == 3 * SIDE**2
    assert torch.equal(backbone.project.weight, weights(result)["backbone.project.weight"])
    _, metadata = read_imported(report.out, header_only=True)
    assert metadata["pretraining_sets"] == sorted({f"img{number % toy.NUM_IMAGES}" for number in range(23)})
    assert metadata["features"] == {"extractor": "", "weights": "", "boxes": ""}
    again = run("train.epochs=1", "backbone.weights=seeing.safetensors", runs_root="again")
    assert losses(again)[0] != losses(result)[0]


# --- questions ---


@pytest.fixture
def asked(run: Callable[..., RunResult], world: Path, alone: None) -> Path:
    folder = run("train.epochs=1").folder
    for split in toy.SIZES:
        (world / "data" / f"{split}.jsonl").unlink()
    return folder


def test_stored_pictures_and_photographs_are_asked_about_alike(
    asked: Path, seeing_plugins: Plugins, pictures: Path, tmp_path: Path
) -> None:
    loaded = load_run(asked, plugins=seeing_plugins)
    answer = loaded.ask("text 1", "img3")
    assert answer.image_sizes == ((12, 13),)
    photograph = tmp_path / "photo.png"
    photograph.write_bytes((pictures / "img3.png").read_bytes())
    of_file = loaded.ask("text 1", photograph)
    assert of_file.choices == answer.choices
    assert of_file.question.image_ids == ("photo",)
    assert of_file.image_sizes == answer.image_sizes
    both = list(loaded.ask_many([("text 1", "img3"), ("text 2", photograph), ("text 1", "img9"), ("text 1", "img0")]))
    assert both[0] == answer
    assert both[1] == loaded.ask("text 2", photograph)
    assert "image 'img9' has no picture in" in str(both[2])
    assert both[3] == loaded.ask("text 1", "img0")


def test_photographs_need_no_stored_pictures(
    asked: Path, seeing_plugins: Plugins, pictures: Path, tmp_path: Path
) -> None:
    expected = load_run(asked, plugins=seeing_plugins).ask("text 1", "img3").choices
    pictures.rename(tmp_path / "elsewhere")
    loaded = load_run(asked, plugins=seeing_plugins)
    assert loaded.image_ids() == []
    assert loaded.ask("text 1", tmp_path / "elsewhere" / "img3.png").choices == expected
    with pytest.raises(DataError, match=r"image 'img3': the run's pictures, .*pictures, are not there"):
        loaded.ask("text 1", "img3")


def test_what_is_no_picture_is_refused_in_a_sentence(asked: Path, seeing_plugins: Plugins, tmp_path: Path) -> None:
    loaded = load_run(asked, plugins=seeing_plugins)
    with pytest.raises(UsageError, match="img1: the model sees pictures, not region features; give the picture"):
        loaded.ask("text 1", toy.image_features(1))
    with pytest.raises(DataError, match="image 'img3' has no picture"):
        loaded.features("img3")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="image 'broken'"):
        loaded.ask("text 1", tmp_path / "broken.png")
    with pytest.raises(DataError, match="nowhere"):
        loaded.ask("text 1", tmp_path / "nowhere.png")


def test_the_verb_takes_photographs_without_a_detector(
    asked: Path, install: Callable[..., None], pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-seeing", "from picture_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    for given in (["--image", pictures / "img3.png"], ["--image-id", "img3"]):
        assert main(["ask", str(asked), "--text", "text 1", "--json", *map(str, given)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["images"] == [{"id": "img3", "width": 12, "height": 13}]


def test_a_finished_run_is_evaluated_again(
    run: Callable[..., RunResult], install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-seeing", "from picture_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    result = run("train.epochs=1")
    expected = {row.score.value for row in result.rows if row.split == "test"}
    assert main(["evaluate", str(result.folder), "--split", "test", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert expected == {row["score"]["value"]}
