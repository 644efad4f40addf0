"""What importers say that their weights have seen: recorded with every import, marked on the scores of every run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from collections_world import experiment, plugins_with_collections, protocols, with_table, written

from vlrun import WeightFormat
from vlrun.cli import main
from vlrun.engine.weight_files import import_weights, read_imported
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.run import RunResult, run_experiment


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return plugins_with_collections()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def translate(content: dict[str, Any]) -> dict[str, Any]:
    return content


def run_from(folder: Path, plugins: Plugins, name: str, *pretraining: str, seen: tuple[str, ...] = ()) -> RunResult:
    """A run that only evaluates, from toy weights of a format that declares ``seen``."""
    backbone = toy.ToyBackbone(toy.ToyConfig(name="toy"))
    torch.save(backbone.state_dict(), folder / "toy.pkl")
    toys = WeightFormat(name="toy", backbone="toy", summary="", translator=f"{__name__}:translate", seen=seen)
    out = folder / "toy.safetensors"
    import_weights(folder / "toy.pkl", out, toys, pretraining_sets=list(pretraining) or None)
    loaded = experiment(folder, plugins, {name: "train"}, "train.epochs=0", f"backbone.weights={out}")
    return run_experiment(loaded, plugins=plugins)


def test_what_a_format_declares_marks_the_scores(folder: Path, plugins: Plugins) -> None:
    seen = ("COCO_train2014_*", "visual-genome:* except COCO_*")
    where = "pre-training (COCO_train2014_*, visual-genome:* except COCO_*)"
    coco = protocols(run_from(folder, plugins, "coco", seen=seen))["coco"]
    assert coco["leak"] == f"7 of 7 images seen in {where}"
    assert "image identities" not in coco

    genome = protocols(run_from(folder, plugins, "genome", seen=seen))["genome"]
    assert genome["leak"] == f"7 of 7 possibly seen in {where}"
    assert genome["image identities"] == "not checked between COCO and Visual Genome"
    assert "leak" not in protocols(run_from(folder, plugins, "photos", seen=seen))["photos"]

    with_table(folder)
    genome = protocols(run_from(folder, plugins, "genome", seen=seen))["genome"]
    assert genome["leak"] == f"7 of 7 images seen in {where}"
    photos = protocols(run_from(folder, plugins, "photos", seen=seen))["photos"]
    assert photos["leak"] == f"7 of 7 images seen in {where}"
    assert photos["image identities"].startswith("image_identities.jsonl (")


def test_what_no_table_joins_stays_unchecked(folder: Path, plugins: Plugins) -> None:
    with_table(folder)
    said = protocols(run_from(folder, plugins, "photos", "possibly sbu:*", "COCO_train2014_*"))["photos"]
    table, unchecked = said["image identities"].split("; ")
    assert table.startswith("image_identities.jsonl (")
    assert unchecked == "not checked between Flickr and SBU captions"


def test_a_split_of_the_experiment_tells_what_was_not_seen(folder: Path, plugins: Plugins) -> None:
    entry = "COCO_* except coco/{}"
    leak = protocols(run_from(folder, plugins, "coco", entry.format("train")))["coco"]
    assert "leak" not in leak  # its evaluated split has the same images
    leak = protocols(run_from(folder, plugins, "coco", entry.format("nowhere")))["coco"]
    assert leak["leak"] == "7 of 7 possibly seen in pre-training (COCO_* except coco/nowhere)"


def test_one_text_for_several_is_refused() -> None:
    with pytest.raises(ValueError, match=r"write a tuple, \('COCO_\*',\)"):
        WeightFormat(name="toy", backbone="toy", summary="", translator="a:b", seen="COCO_*")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(create_plugins().weight_formats()))
def test_what_each_installed_importer_declares_is_recorded_and_marked(
    folder: Path, plugins: Plugins, name: str
) -> None:
    seen = create_plugins().weight_formats()[name].seen
    result = run_from(folder, plugins, "coco", seen=seen)
    assert json.loads((folder / "toy.json").read_text())["pretraining_sets"] == list(seen)
    assert ("leak" in protocols(result)["coco"]) == bool(seen)


def imported(folder: Path, *options: str) -> tuple[int, list[str]]:
    """Exit status of the command, and what the header of the weights says; the file is one of BERT."""
    layer = {f"embeddings.{name}": torch.ones(1) for name in ("word_embeddings.weight", "LayerNorm.weight")}
    torch.save(
        {f"bert.{name}": tensor for name, tensor in layer.items()} | {"bert.pooler.dense.bias": torch.ones(1)},
        folder / "b.bin",
    )
    out = folder / "b.safetensors"
    status = main(["weights", "import", "--from", "bert-lxmert-s", str(folder / "b.bin"), str(out), *options])
    return status, read_imported(out)[1]["pretraining_sets"] if out.exists() else []


def test_the_command_adds_to_what_is_declared_or_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = Plugins.weight_formats

    def with_images(plugins: Plugins) -> dict[str, WeightFormat]:
        return {name: replace(found, seen=("COCO_train2014_*",)) for name, found in formats(plugins).items()}

    monkeypatch.setattr(Plugins, "weight_formats", with_images)
    assert imported(tmp_path) == (0, ["COCO_train2014_*"])
    assert "seen in pre-training: COCO_train2014_*" in capsys.readouterr().out
    assert imported(tmp_path, "--pretrained-on", "dev-*") == (0, ["COCO_train2014_*", "dev-*"])
    assert imported(tmp_path, "--pretrained-on-only", "dev-*") == (0, ["dev-*"])
    assert imported(tmp_path, "--pretrained-on-only") == (0, [])
    assert "seen in pre-training: no images, as far as is known" in capsys.readouterr().out
    assert imported(tmp_path, "--pretrained-on", "COCO_* but dev-*")[0] == 2
    assert "'COCO_* but dev-*' names no images" in capsys.readouterr().err
