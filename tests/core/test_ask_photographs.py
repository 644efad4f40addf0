"""Asking about photographs, through a detector of a plugin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_world import ToyTask, image_features

from vlrun.cli import main
from vlrun.features.writer import write_store

DETECTOR = """
from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks, image_features
from dataclasses import replace
from vlrun import DataError, Detector, Entry, hookimpl


class Eyes(Detector):
    def __init__(self, config):
        self.config = config

    def describe(self):
        return f"eyes of {self.config.weights.name}, {self.config.boxes} boxes"

    def read(self, file):
        if not file.read_bytes():
            raise DataError("it is empty")
        return file

    def detect(self, image_id, picture):
        return replace(image_features(4), image_id=image_id, width=80)


@hookimpl
def vlrun_detectors():
    return [Entry(name="eyes", summary="", config="vlrun:DetectorConfig", factory="vlrun_seeing:Eyes")]
"""


def ask(folder: Path, *arguments: str | Path) -> int:
    return main(["ask", str(folder), *map(str, arguments)])


@pytest.fixture
def seeing(trained: Path, install: Callable[..., None], tmp_path: Path) -> Path:
    """The run, with a plugin that brings a detector, and two photographs."""
    install("vlrun-seeing", DETECTOR)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.jpg").write_bytes(b"photo")
    (tmp_path / "empty.jpg").touch()
    return trained


def test_a_photograph_is_asked_about(
    seeing: Path, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    eyes = ["--detector", "eyes", "--detector-weights", "w.safetensors", "--detector-option", "boxes=10-20", "--json"]
    photo = tmp_path / "here" / "photo.jpg"
    assert ask(seeing, "--text", "text 1", "--image", photo, *eyes) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == [{"id": "photo", "width": 80, "height": 100}]
    assert captured.err == ""

    extractor = "bottom-up of its authors"
    store = seeing.parents[2] / "data" / "toys.lmdb"
    write_store(store, [image_features(0)], extractor=extractor, overwrite=True)
    monkeypatch.setattr(ToyTask, "asked_images", None)
    assert ask(seeing, "--text", "text 1", "--image", photo, "--image", tmp_path / "there" / "photo.jpg", *eyes) == 0
    captured = capsys.readouterr()
    assert [image["id"] for image in json.loads(captured.out)["images"]] == ["photo", "photo (2)"]
    assert captured.err.splitlines() == [
        f"note: the run's features are of {extractor}; those of photographs are of eyes of w.safetensors, 10-20 boxes"
    ]


def test_a_folder_of_photographs_competes(
    seeing: Path, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ToyTask, "asked_images", None)
    (tmp_path / "here" / "another.PNG").write_bytes(b"photo")
    (tmp_path / "here" / "notes.txt").write_text("no picture")
    eyes = ["--detector", "eyes", "--detector-weights", "w.safetensors", "--json"]
    assert ask(seeing, "--text", "text 1", "--image", tmp_path / "here", *eyes) == 0
    assert [image["id"] for image in json.loads(capsys.readouterr().out)["images"]] == ["another", "photo"]
    (tmp_path / "none").mkdir()
    assert ask(seeing, "--text", "text 1", "--image", tmp_path / "none", *eyes) == 5
    assert "there is no JPEG or PNG in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["--image", "empty.jpg"],
            2,
            r"it takes --detector \(.*eyes\) and --detector-weights FILE",
        ),
        (["--image", "empty.jpg", "--detector", "eyes", "--detector-weights", "w"], 5, "empty.jpg: it is empty"),
        (["--image", "nowhere.jpg", "--detector", "eyes", "--detector-weights", "w"], 5, "there is no such file"),
        (["--image", "empty.jpg", "--detector", "eyes"], 3, "--detector eyes: weights: "),
        (["--image", "empty.jpg", "--detector", "eyes", "--detector-option", "boxes"], 2, "write option=value"),
        (
            ["--image", "a", "--image", "b", "--detector", "eyes", "--detector-weights", "w"],
            2,
            "takes 1 image, and got 2",
        ),
    ],
    ids=["not named", "no picture", "no file", "no weights", "no value", "two photographs"],
)
def test_a_photograph_that_cannot_be_asked_about_has_one_line(
    arguments: list[str],
    status: int,
    message: str,
    seeing: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask(seeing, "--text", "text 1", *arguments) == status
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
