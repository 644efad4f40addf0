"""Runs whose images belong to several collections: what their scores say, and what cleaning and export do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy_world as toy
from collections_world import (
    GROUPS,
    NAMES,
    SHARED,
    data_of,
    experiment,
    plugins_with_collections,
    protocols,
    with_table,
    written,
)
from toy_runs import stop_after

from vlrun.data.identities import read_identities, write_identities
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.engine.weight_files import read_imported
from vlrun.errors import DataError, StoppedOnRequest
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run
from vlrun.runs.export import export_weights
from vlrun.runs.run import run_experiment


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return plugins_with_collections()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


BOTH = {"genome": "train", "coco": "test"}


def test_without_the_table_every_affected_score_says_so(folder: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(folder, plugins, BOTH), plugins=plugins)
    said = "not checked between COCO and Visual Genome"
    assert {task: protocol["image identities"] for task, protocol in protocols(result).items()} == {
        "genome": said,
        "coco": said,
    }
    assert "training of genome" not in protocols(result)["coco"]["leak"]
    assert data_of(result)["coco"]["marks"]["val"]["image identities"] == said
    assert "image_identities" not in data_of(result)


def test_the_table_under_the_data_root_is_found_and_named(folder: Path, plugins: Plugins) -> None:
    sha256 = read_identities(with_table(folder)).sha256
    result = run_experiment(experiment(folder, plugins, BOTH), plugins=plugins)
    protocol = protocols(result)["coco"]
    assert protocol["image identities"] == f"image_identities.jsonl ({sha256[:12]})"
    assert f"{SHARED} of 7 images seen in training of genome" in protocol["leak"]
    assert data_of(result)["image_identities"]["sha256"] == sha256


@pytest.mark.parametrize("name", NAMES)
def test_images_of_one_collection_need_no_table(folder: Path, plugins: Plugins, name: str) -> None:
    with_table(folder)
    result = run_experiment(experiment(folder, plugins, {name: "train"}), plugins=plugins)
    assert "image identities" not in protocols(result)[name]
    assert "image_identities" not in data_of(result)


def test_cleaning_goes_across_three_collections(folder: Path, plugins: Plugins) -> None:
    """Visual Genome's images 1 and 2 are the evaluated photographs 101 and 102, for both are COCO's 1 and 2."""
    tasks = {"genome": "train", "photos": "test"}
    options = ["train.remove_evaluation_images=true", "train.batch_size=1"]
    options += ["tasks.0.dataset.evaluate=[test]", "tasks.1.dataset.limit=2"]

    def left_out() -> int:
        result = run_experiment(experiment(folder, plugins, tasks, *options), plugins=plugins)
        assert all("leak" not in protocol for protocol in protocols(result).values())
        return int(data_of(result)["genome"]["train"][0]["left out"].split()[0])

    shown = [index % toy.NUM_IMAGES + 1 for index in range(toy.SIZES["train"])]
    assert left_out() == shown.count(7)  # which it evaluates itself
    with_table(folder)
    assert left_out() == shown.count(7) + shown.count(1) + shown.count(2)


def test_a_cleaned_run_goes_on_with_the_table_it_was_started_with(
    folder: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["train.remove_evaluation_images=true", "train.batch_size=1", "tasks.0.dataset.evaluate=[test]"]
    tasks = {"genome": "train", "photos": "test"}
    loaded = experiment(folder, plugins, tasks, *options, "tasks.1.dataset.limit=2")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run_experiment(loaded, plugins=plugins)
    path = with_table(folder)
    with pytest.raises(DataError, match=r"started with no table of image identities, and now there is table \w{12}"):
        run_experiment(loaded, plugins=plugins, continues=True)
    path.unlink()
    assert len(run_experiment(loaded, plugins=plugins, continues=True).rows) == len(tasks)


def test_an_option_names_another_table(folder: Path, plugins: Plugins) -> None:
    with_table(folder)
    (folder / "data" / "image_identities.jsonl").write_text("damaged\n")
    option = "image_identities=other.jsonl"
    assert [file.path.name for file in experiment(folder, plugins, BOTH, option).missing_files()] == ["other.jsonl"]
    with_table(folder, "other.jsonl")
    loaded = experiment(folder, plugins, BOTH, option)
    assert loaded.missing_files() == []
    result = run_experiment(loaded, plugins=plugins)
    assert protocols(result)["coco"]["image identities"].startswith("other.jsonl (")


def test_a_damaged_table_stops_the_run(folder: Path, plugins: Plugins) -> None:
    (folder / "data" / "image_identities.jsonl").write_text("damaged\n")
    with pytest.raises(DataError, match=r"image_identities.jsonl:1: not readable JSON"):
        run_experiment(experiment(folder, plugins, BOTH), plugins=plugins)


def test_a_later_evaluation_keeps_what_training_knew(folder: Path, plugins: Plugins) -> None:
    with_table(folder)
    loaded = experiment(folder, plugins, BOTH)
    result = run_experiment(loaded, plugins=plugins)
    alone = Ranks(0, 1, torch.device("cpu"))
    again = evaluate_run(OpenedRun(RunFolder(result.folder), loaded, plugins), alone, Reporters([]))
    marks = ("leak", "image identities")
    assert [[row.score.protocol[mark] for mark in marks] for row in again] == [
        [row.score.protocol[mark] for mark in marks] for row in result.rows
    ]


def test_an_export_records_collections_and_needs_the_table_of_the_run(folder: Path, plugins: Plugins) -> None:
    path = with_table(folder)
    loaded = experiment(folder, plugins, BOTH)
    result = run_experiment(loaded, plugins=plugins)
    out = folder / "out.safetensors"
    metadata = read_imported(export_weights(RunFolder(result.folder), loaded, out, plugins, "last").out)[1]
    assert metadata["pretraining_sets"] == sorted([NAMES["coco"][-1], *(f"visual-genome:{n}" for n in NAMES["genome"])])

    cleaned = experiment(folder, plugins, BOTH, "train.remove_evaluation_images=true")
    write_identities(path, GROUPS[:-1], [])
    with pytest.raises(DataError, match=r"was started with table \w{12} of image identities, and now there is table"):
        export_weights(RunFolder(result.folder), cleaned, out, plugins, "last")
