"""A demo that starts from pictures: they are drawn, detected, learned from, scored; then new ones are asked about."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.test import Client

from vlrun import RegionFeatureStore, load_experiment, load_run
from vlrun.cli import main
from vlrun.cli.detectors import photograph_reader
from vlrun_demo import world
from vlrun_demo.picture import draw
from vlrun_demo.scene import make_scene
from vlrun_serve.app import AskPage

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "experiments" / "rosita_refcoco+.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of a short training on a few pictures, and a new picture."""
    place = tmp_path_factory.mktemp("from_pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLRUN_CACHE", str(place / "cache"))
        few = [replace(run, size=24 if run.split == "train" else 6) for run in world._RUNS[world.COCO]]
        patch.setitem(world._RUNS, world.COCO, few)
        options = [
            "--output",
            str(place),
            "train.epochs=1",
            "train.workers=0",
            "reporters=[{name: jsonl}]",
            "built_in_reporters=false",
        ]
        assert main(["run", str(FILE), "--demo-pictures", *options]) == 0
    draw(make_scene(77)).save(place / "new.png")
    return place


def test_features_come_from_the_detector_and_scores_from_them(place: Path) -> None:
    folder = place / "rosita_refcoco+" / "latest"
    experiment = load_experiment(folder / "config.yaml")
    assert experiment.demo == "pictures"
    store = RegionFeatureStore(experiment.tasks[0].dataset.features)
    assert store.manifest.extractor.startswith("demo-world: ")
    assert (store.manifest.count, store.manifest.boxes, store.manifest.max_regions) == (42, "12", 12)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = {row["split"]: row["value"] for row in rows if row["kind"] == "result" and row["final"]}
    assert scores.keys() == {"val", "testA", "testB"}
    assert json.loads((folder / "status.json").read_text())["demo"] is True


def test_a_new_picture_is_asked_about_without_naming_a_detector(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = str(place / "rosita_refcoco+"), place / "new.png"
    drawn = place / "out.png"
    assert main(["ask", run, "--image", str(new), "--text", "the red ball", "--json", "--draw", str(drawn)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    answer = json.loads(captured.out)
    assert answer["images"][0]["id"] == "new"
    assert drawn.is_file()


def test_the_page_takes_a_new_picture(place: Path) -> None:
    run = place / "rosita_refcoco+"
    reader = photograph_reader(Namespace(detector=None, detector_weights=None, detector_option=[], run_folder=str(run)))
    client = Client(AskPage(load_run(run, detector=reader)))
    assert json.loads(client.get("/about").text)["detector"] is True
    sent = (io.BytesIO((place / "new.png").read_bytes()), "new.png")
    told = client.post("/ask", data={"text": "the red ball", "image0": sent}, content_type="multipart/form-data")
    assert told.status_code == 200, told.text
    assert json.loads(told.text)["images"][0]["width"] == make_scene(77).width
