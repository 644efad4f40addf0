"""A finished run keeps its predictions and submission files whatever is evaluated later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import toy_world as toy

from vlrun import Prediction
from vlrun.cli import main

SOURCE = "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n"


def write_submission(self: object, predictions: Sequence[Prediction], path: Path) -> None:
    path.write_text(json.dumps([prediction.id for prediction in predictions]))


@pytest.fixture
def run(world: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run of a task that has a server."""
    install("vlrun-toys", SOURCE)
    monkeypatch.chdir(world)
    monkeypatch.setattr(toy.ToyTask, "submission_suffix", ".json")
    monkeypatch.setattr(toy.ToyTask, "write_submission", write_submission)
    text = toy.EXPERIMENT.partition("published:")[0]
    (world / "toys.yaml").write_text(f"data_root: data\nruns_root: runs\n{text}")
    assert main(["run", "toys.yaml"]) == 0
    return (world / "runs" / "toys" / "latest").resolve()


def outputs(folder: Path) -> dict[str, str]:
    """Every file of predictions and submissions that lies in a folder itself."""
    files = [path for kind in ("predictions", "submission") for path in (folder / kind).glob("*")]
    return {f"{path.parent.name}/{path.name}": path.read_text() for path in files}


def own_folders(run: Path) -> list[Path]:
    return sorted((run / "evaluations").glob("*"))


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_the_same_evaluation_writes_the_same_files_again(run: Path, verb: str) -> None:
    before = outputs(run)
    assert len(before) == 4
    assert main([verb, str(run)]) == 0
    assert main([verb, str(run), "--split", "test", "train.workers=0", "train.log_every=3"]) == 0
    assert outputs(run) == before
    assert not own_folders(run)


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_other_options_get_a_folder_of_their_own(run: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = outputs(run)
    assert main([verb, str(run), "tasks.0.dataset.limit=3"]) == 0
    captured = capsys.readouterr()
    (folder,) = own_folders(run)
    assert str(folder / "predictions") in captured.out
    assert "tasks.0.dataset.limit: None -> 3" in captured.err
    assert outputs(run) == before
    assert {name: len(json.loads(text)) for name, text in outputs(folder).items() if name.startswith("sub")} == {
        "submission/match_val.json": 3,
        "submission/match_test.json": 3,
    }
    record = json.loads((folder / "evaluation.json").read_text())
    assert "tasks.0.dataset.limit: None -> 3" in record["differs from the run"]
    assert record["options"]["tasks"][0]["dataset"]["limit"] == 3

    first = outputs(folder)
    assert main([verb, str(run), "tasks.0.dataset.limit=3"]) == 0
    assert own_folders(run) == [folder]
    assert outputs(folder) == first
    assert main([verb, str(run), "tasks.0.dataset.limit=4"]) == 0
    assert len(own_folders(run)) == 2
    assert outputs(folder) == first


@pytest.mark.parametrize("where", ["last", "elsewhere"])
def test_another_checkpoint_gets_a_folder_of_its_own(run: Path, where: str) -> None:
    before = outputs(run)
    names = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
    best = (run / "checkpoints" / "best").readlink().name
    choice = "last"
    if where == "elsewhere":
        choice = str((run / "checkpoints" / best).rename(run.parent / best))
    elif best == names[-1]:
        (run / "checkpoints" / "best").unlink()
        (run / "checkpoints" / "best").symlink_to(names[0])
    assert main(["evaluate", str(run), "--checkpoint", choice]) == 0
    (folder,) = own_folders(run)
    assert outputs(run) == before
    assert outputs(folder).keys() == before.keys()
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["differs from the run"][0].startswith("checkpoint: ")
    assert Path(record["checkpoint"]).name == (best if where == "elsewhere" else names[-1])


def test_other_annotations_get_a_folder_of_their_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outputs(run)
    monkeypatch.setitem(toy.SIZES, "val", 5)
    assert main(["evaluate", str(run)]) == 0
    (folder,) = own_folders(run)
    assert outputs(run) == before
    assert json.loads((folder / "evaluation.json").read_text())["differs from the run"] == ["val: examples: 13 -> 5"]


def test_other_features_get_a_folder_of_their_own(run: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outputs(run)
    monkeypatch.setattr(toy, "NUM_IMAGES", toy.NUM_IMAGES + 1)
    for file in (world / "data" / "toys.lmdb").rglob("*"):
        file.unlink()
    (world / "data" / "toys.lmdb").rmdir()
    toy.write_toy_store(world / "data" / "toys.lmdb")
    monkeypatch.setattr(toy, "NUM_IMAGES", toy.NUM_IMAGES - 1)
    assert main(["predict", str(run)]) == 0
    (folder,) = own_folders(run)
    assert outputs(run) == before
    differences = json.loads((folder / "evaluation.json").read_text())["differs from the run"]
    assert [text.partition(": unknown")[0] for text in differences] == ["val: features", "test: features"]
