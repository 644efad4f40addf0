"""An experiment whose authors have published no split to choose by goes on with what is there, and scores say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_runs import experiment, lines

from vlrun.cli import main
from vlrun.config.experiment import load_experiment
from vlrun.data.going_on import overrides_for_what_is_there
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

SHIPPED = Path(__file__).resolve().parents[2] / "experiments"
LAST = "train.final_checkpoint=last"


@pytest.fixture
def annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path))
    return tmp_path / "annotations"


def put(folder: Path, *splits: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        (folder / f"{split}.jsonl").touch()


@pytest.mark.parametrize(
    ("name", "dataset", "there", "evaluated"),
    [
        ("rosita_itr_coco", "coco-retrieval", "train test1k", "test1k"),
        ("rosita_itr_coco", "coco-retrieval", "train test1k test", "test"),
        ("rosita_itr_flickr", "flickr30k", "train test", "test"),
        ("lxmert_s_ir", "flickr30k", "train test", "test"),
        ("lxmert_s_tr", "flickr30k", "train test", "test"),
        ("lxmert_retrieval_flickr", "flickr30k", "train test", "test"),
    ],
)
def test_what_the_authors_publish_is_enough(
    name: str, dataset: str, there: str, evaluated: str, annotations: Path
) -> None:
    put(annotations / dataset, *there.split())
    wanted = [f"tasks.0.dataset.evaluate=[{evaluated}]", LAST]
    assert overrides_for_what_is_there(load_experiment(SHIPPED / f"{name}.yaml")) == wanted
    assert overrides_for_what_is_there(load_experiment(SHIPPED / f"{name}.yaml", wanted)) == []


def test_both_commands_say_how(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(annotations / "flickr30k", "train", "test")
    file = str(SHIPPED / "lxmert_s_ir.yaml")
    options = f"'tasks.0.dataset.evaluate=[test]' {LAST}"
    assert main(["validate", file]) == 5
    said = capsys.readouterr().err
    assert f"To go on with the splits that are there: {options}  (no split chooses an epoch; scores say " in said
    assert main(["data", "status", file]) == 5
    assert f"Or with the splits that are there: runner data status {file} {options}\n" in capsys.readouterr().out


def test_a_split_that_chooses_goes_on_choosing(annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(annotations / "flickr30k", "train", "val")
    loaded = load_experiment(SHIPPED / "lxmert_s_ir.yaml")
    assert overrides_for_what_is_there(loaded) == ["tasks.0.dataset.evaluate=[val]"]
    assert main(["validate", str(SHIPPED / "lxmert_s_ir.yaml")]) == 5
    assert "there: 'tasks.0.dataset.evaluate=[val]'\n" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["", "test", "train"])
def test_where_it_cannot_go_on_nothing_is_offered(there: str, annotations: Path) -> None:
    put(annotations / "flickr30k", *there.split())
    assert overrides_for_what_is_there(load_experiment(SHIPPED / "lxmert_s_ir.yaml")) == []


def test_what_trains_nothing_chooses_nothing(annotations: Path) -> None:
    put(annotations / "flickr30k", "val")
    loaded = load_experiment(SHIPPED / "lxmert_s_ir_zero_shot.yaml", ["tasks.0.dataset.evaluate=[test,val]"])
    assert overrides_for_what_is_there(loaded) == ["tasks.0.dataset.evaluate=[val]"]


def test_scores_say_that_no_split_has_chosen(world: Path, plugins: Plugins) -> None:
    options = ["tasks.0.dataset.evaluate=[test]", "train.epochs=2", LAST]
    result = run_experiment(experiment(world, plugins, *options), plugins=plugins)
    (score,) = [row for row in lines(result, "result") if row["final"]]
    assert score["protocol"]["checkpoint"] == f"last (step {2 * (23 // 6)})"
