"""``runner data status`` and ``prepare``: from folders as people have them, with a dataset plugin made for the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlrun.cli import main
from vlrun.data.needs import Need
from vlrun.data.preparing import Step, prepare
from vlrun.data.trees import Found, Tree
from vlrun.features.writer import write_store
from vlrun.foreign.yaml import dump_yaml
from vlrun.interfaces.examples import RegionFeatures
from vlrun.plugins.downloads import Download

PLUGIN = """
from typing import ClassVar
from pathlib import Path
from pydantic import BaseModel
from vlrun import (
    BackboneConfig, BuildReport, Builder, DataError, DatasetConfig, Download, Entry, Example, FeatureOrigin, RemoteFile,
    RequiredFile, TaskConfig, hookimpl,
)
from vlrun.data.annotations import AnnotatedDataset, write_annotations


class Line(BaseModel):
    id: str
    text: str
    image: str = "a"


class Lines(AnnotatedDataset):
    record = Line

    def example_of(self, record):
        return Example(record.id, record.text, (record.image,), None)


class Bone(BackboneConfig):
    def required_files(self):
        root = Path(self.weights).parent.parent
        return [RequiredFile(root / "vocab/words.txt", "words", "write them"), *super().required_files()]


def build(splits, path, output):
    counts = {}
    for split in splits:
        file = path / f"{split}.txt"
        if not file.is_file():
            continue
        if "bad" in file.read_text():
            raise DataError(f"{file}: is bad")
        records = [{"id": str(n), "text": line} for n, line in enumerate(file.read_text().splitlines())]
        counts[split] = write_annotations(output / f"{split}.jsonl", records, Line)
    return BuildReport(counts)


def download(name, kind, makes, recognised, **more):
    return Download(
        name=name, summary=f"the {name}", kind=kind, makes=makes, recognised=recognised, page="https://example.org",
        **more,
    )


@hookimpl
def vlrun_backbones():
    return [Entry(name="bone", summary="", config="vlrun_toy:Bone", factory="builtins:print")]


class Picky(TaskConfig):
    @property
    def needed_fields(self):
        return ("answers",)


@hookimpl
def vlrun_tasks():
    shared = {"summary": "", "factory": "builtins:print", "target": "t"}
    return [
        Entry(name="task", config="vlrun:TaskConfig", **shared),
        Entry(name="picky", config="vlrun_toy:Picky", **shared),
    ]


@hookimpl
def vlrun_datasets():
    def builder(source, *splits, lacks=()):
        return Builder(
            source=source, summary="a folder", function="vlrun_toy:build", arguments=(splits,), lacks=lacks
        )

    shared = {"config": "vlrun:DatasetConfig", "factory": "vlrun_toy:Lines", "target": "t", "record": "vlrun_toy:Line"}
    builders = (builder("old", "train"), builder("whole", "train", "test", lacks=("answers",)))
    return [Entry(name="toy", summary="a toy", builders=builders, **shared)]


@hookimpl
def vlrun_downloads():
    url = RemoteFile(name="whole.zip", urls=("http://127.0.0.1:1/whole.zip",), size=2_000_000)
    return [
        download("words", "vocabulary", "words.txt", ("words.txt",)),
        download("toy-old", "annotations", "toy", ("toy/train.txt",), source="old"),
        download("toy-whole", "annotations", "toy", ("toy/test.txt",), source="whole", files=(url,), licence="CC0"),
        download(
            "store", "features", "store", ("images",), source="npz", images=1_000_000,
            features=FeatureOrigin("bua-caffe", boxes="36"),
        ),
        download("net", "weights", "net.safetensors", ("net.pkl",), source="none", manual_steps=("sign the form",)),
    ]
"""


@pytest.fixture(autouse=True)
def toy(install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("vlrun-toy", PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLRUN_DATA", raising=False)


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    dataset = {"name": "toy", "annotations": "annotations/toy", "features": "features/store", "evaluate": ["test"]}
    content = {
        "backbone": {"name": "bone", "weights": "weights/net.safetensors"},
        "tasks": [{"name": "task", "dataset": dataset}],
        "train": {"epochs": 1, "batch_size": 1, "learning_rate": 1e-3},
    }
    path = tmp_path / "toy.yaml"
    path.write_text(dump_yaml(content))
    return str(path)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder as people have it, with names that say something only together with the folder that they are in."""
    for name, text in {
        "toy/train.txt": "a cat\n",
        "toy/test.txt": "a dog\n",
        "other/train.txt": "bad\n",
        "words.txt": "cat\ndog\n",
        "junk/a.bin": "x",
    }.items():
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / name).write_text(text)
    return tmp_path / "old"


def test_status_names_what_is_missing_and_the_next_command(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "status", experiment]) == 5
    shown = capsys.readouterr().out
    assert f"missing  {tmp_path}/data/annotations/toy: train.jsonl, test.jsonl" in shown
    assert "toy-whole: the toy-whole\n      1 file, 2.0 MB; licence: CC0\n      https://example.org" in shown
    assert "$ runner data get toy-whole" in shown
    assert "by hand: sign the form" in shown
    assert "the store takes 148.0 GB and 17 min" in shown
    assert "GB are free under" in shown
    assert f"runner data prepare {experiment} [--from FOLDER]..." in shown


def test_what_no_download_makes_is_told_with_its_remedy(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "status", experiment, "image_identities=table.jsonl"]) == 5
    shown = capsys.readouterr().out
    assert f"missing  {tmp_path}/data/table.jsonl" in shown
    assert "runner data build image-identities --from official FOLDER" in shown


def test_status_gives_the_command_for_what_is_found(
    experiment: str, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "status", experiment, "--from", str(old), "--json"]) == 5
    needs = {need["path"]: need for need in json.loads(capsys.readouterr().out)}
    target = f"{tmp_path}/data/annotations/toy"
    assert f"runner data build toy --from whole {old}/toy {target}" in needs[target]["commands"]
    assert needs[f"{tmp_path}/data/weights/net.safetensors"]["downloads"] == ["net"]


def test_a_source_that_lacks_what_the_task_needs_is_not_offered(
    experiment: str, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "status", experiment, "tasks.0.name=picky"]) == 5
    shown = capsys.readouterr().out
    assert "of no use here, as they lack what the task needs: toy-whole" in shown
    assert "toy-old: the toy-old" in shown
    assert "runner data get toy-whole" not in shown

    assert main(["data", "prepare", experiment, "tasks.0.name=picky", "--from", str(old)]) == 5
    assert "--from old" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "data/annotations/toy").iterdir()} == {"train.jsonl", "sources.json"}


def test_features_are_imported_with_what_made_them(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old" / "images").mkdir(parents=True)
    main(["data", "status", experiment, "--from", "old", "--json"])
    needs = {need["path"]: need for need in json.loads(capsys.readouterr().out)}
    store = f"{tmp_path}/data/features/store"
    assert needs[store]["commands"] == [
        f"runner features build --from npz old/images {store} --extractor bua-caffe --boxes 36"
    ]


def test_validate_says_how_much_a_missing_store_takes(experiment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", experiment]) == 5
    assert "(the store takes 148.0 GB and 17 min at 1,000 images/s of one core)" in capsys.readouterr().err


def test_prepare_makes_what_it_can_and_validate_says_the_rest(
    experiment: str, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", experiment, "--from", str(old)]) == 5
    captured = capsys.readouterr()
    assert (tmp_path / "data/vocab/words.txt").read_text() == "cat\ndog\n"
    assert {path.name for path in (tmp_path / "data/annotations/toy").iterdir()} == {
        "train.jsonl",
        "test.jsonl",
        "sources.json",
    }
    assert f"{tmp_path}/data/annotations/toy <- {old}/toy (toy-whole)" in captured.out
    assert "missing" in captured.err
    assert "features/store" in captured.err
    assert f"runner data status {experiment}" in captured.err
    assert [path.name for path in (tmp_path / "data/annotations").iterdir()] == ["toy"]

    boxes = np.tile(np.float32([0, 0, 5, 5]), (2, 1))
    write_store(tmp_path / "data/features/store", [RegionFeatures("a", np.ones((2, 4), np.float16), boxes, 9, 9)])
    (tmp_path / "data/weights").mkdir()
    save_file({"x": np.zeros(1)}, tmp_path / "data/weights/net.safetensors")
    capsys.readouterr()
    assert main(["data", "prepare", experiment]) == 0
    assert f"everything is there; start with: runner run {experiment}" in capsys.readouterr().out
    assert main(["data", "status", experiment]) == 0


def test_without_an_experiment_everything_is_made_and_the_rest_named(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "--from", str(old)]) == 0
    shown = capsys.readouterr().out
    assert f"{old}/junk: nothing was made of 1 files: " in shown
    assert f"{old}/other: nothing was made of 1 files" in shown
    assert f"{old}/toy:" not in shown
    assert main(["data", "prepare", "--from", str(old)]) == 5
    assert "nothing new" in capsys.readouterr().err


def test_the_data_root_may_be_the_old_folder(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLRUN_DATA", str(old))
    assert main(["data", "prepare"]) == 0
    assert (old / "annotations/toy/test.jsonl").is_file()
    assert (old / "vocab/words.txt").is_file()


def test_what_was_downloaded_is_found_wherever_it_lies_inside(tmp_path: Path) -> None:
    folder = tmp_path / "data/downloads/toy-whole/deep"
    folder.mkdir(parents=True)
    (folder.parent / "files.json").write_text("{}")
    (folder / "test.txt").write_text("a dog\n")
    (folder / "words.txt").write_text("of something else\n")
    assert main(["data", "prepare"]) == 0
    assert (tmp_path / "data/annotations/toy/test.jsonl").is_file()
    assert not (tmp_path / "data/vocab").exists()


def test_two_different_vocabularies_are_not_guessed_between(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old / "junk/words.txt").write_text("other\n")
    assert main(["data", "prepare", "--from", str(old)]) == 5
    assert "differ; copy the right one yourself" in capsys.readouterr().out
    assert not (tmp_path / "data/vocab/words.txt").exists()
    assert (tmp_path / "data/annotations/toy/test.jsonl").exists()


def test_a_step_that_fails_stops_no_other(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "toy/train.txt").write_text("bad\n")
    assert main(["data", "prepare", "--from", str(old)]) == 5
    assert "train.txt: is bad" in capsys.readouterr().err
    assert (tmp_path / "data/vocab/words.txt").exists()


def test_an_interrupt_ends_all_steps() -> None:
    download = Download(name="a", summary="", kind="features", makes="a", recognised=("a",), page="https://example.org")
    found = Found(download, (Path("a"),), (Path("a"),), ())
    steps = [Step(Need("features", "a", Path("gone") / name), (found,)) for name in ("b", "c")]
    asked: list[list[str]] = []

    def interrupted(command: list[str]) -> int:
        asked.append(command)
        return 130

    with pytest.raises(KeyboardInterrupt):
        list(prepare(steps, interrupted, lambda message: None))
    assert len(asked) == 1


@pytest.mark.parametrize(("make", "reason"), [(None, "is not there"), ("a.zip", "is a file; unpack it first")])
def test_a_folder_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str | None, reason: str
) -> None:
    path = tmp_path / (make or "nowhere")
    if make:
        path.touch()
    assert main(["data", "prepare", "--from", str(path)]) == 5
    assert capsys.readouterr().err.strip() == f"DataError: {path} {reason}"


def test_a_data_root_that_cannot_be_written_is_told(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "file"))
    assert main(["data", "prepare", "--from", str(old)]) == 5
    captured = capsys.readouterr()
    assert "Not a directory" in captured.out + captured.err or "File exists" in captured.out + captured.err


def test_links_that_lead_upwards_end(old: Path) -> None:
    (old / "toy/up").symlink_to(old)
    assert [path.name for path in Tree(old).matches("toy/train.txt")] == ["train.txt"]


@pytest.mark.parametrize(("in_folder", "source"), [(False, "toy/features.tsv"), (True, "toy")])
def test_an_importer_may_need_what_lies_beside_a_file(tmp_path: Path, in_folder: bool, source: str) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/features.tsv").touch()
    download = Download(
        name="a",
        summary="",
        kind="features",
        makes="a",
        recognised=("toy/features.tsv",),
        page="https://example.org",
        in_folder=in_folder,
    )
    (found,) = Tree(tmp_path).find(download)
    assert found.sources == (tmp_path / source,)
    assert found.files == (tmp_path / "toy/features.tsv",)


def test_an_override_without_experiment_and_a_wrong_declaration_are_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "prepare", "train.epochs=1"]) == 2
    assert "name the EXPERIMENT before it" in capsys.readouterr().err
    with pytest.raises(ValueError, match="say how to get it"):
        Download(name="a", summary="", kind="weights", makes="a", recognised=("a",))
    with pytest.raises(ValueError, match="is one text"):
        Download(name="a", summary="", kind="weights", makes="a", recognised="a", page="p")  # type: ignore[arg-type]
