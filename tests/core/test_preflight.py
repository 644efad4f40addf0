"""``runner validate`` says what a run would fail of, where headers and first lines show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vlrun.cli import main
from vlrun.features.writer import write_store
from vlrun.interfaces.examples import RegionFeatures

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar
from pydantic import BaseModel
from vlrun import Entry, Example, TransformerConfig, hookimpl
from vlrun.data.annotations import AnnotatedDataset


@dataclass(frozen=True)
class Sizes:
    hidden_size: int
    num_heads: int
    num_layers: int


class Net(TransformerConfig):
    known_sizes: ClassVar = {"base": Sizes(8, 2, 3), "tiny": Sizes(4, 2, 1)}
    weights_file: ClassVar = "net.bin"
    weights_page: ClassVar = "https://example.org"
    word_table: ClassVar = "words.weight"
    num_layers: int | None = None

    @classmethod
    def options_of_weights(cls, shapes, num_heads=None):
        if "words.weight" not in shapes:
            return None
        return {"hidden_size": shapes["words.weight"][1], "num_layers": cls.layers_in(shapes, "layers"),
                "num_heads": num_heads, "region_feature_size": shapes["regions.weight"][1]}


class Line(BaseModel):
    id: str
    image: str


class Questions(AnnotatedDataset):
    record = Line

    def example_of(self, record):
        return Example(record.id, "", (record.image,), None)


@hookimpl
def vlrun_backbones():
    return [
        Entry(name="net", summary="", config="vlrun:BackboneConfig", factory="builtins:print"),
        Entry(name="deep", summary="", config="vlrun_asking:Net", factory="builtins:print"),
    ]

@hookimpl
def vlrun_tasks():
    return [Entry(name="ask", summary="", config="vlrun:AnsweringConfig", factory="builtins:print", target="answers")]

@hookimpl
def vlrun_datasets():
    shared = {"config": "vlrun:DatasetConfig", "factory": "vlrun_asking:Questions", "target": "answers"}
    return [Entry(name="questions", summary="", **shared)]
"""

EXPERIMENT = """
data_root: .
backbone: {name: net, weights: weights.safetensors}
tasks:
  - name: ask
    dataset: {name: questions, annotations: ., features: f.lmdb, train: [train], evaluate: [val]}
train: {epochs: 2, batch_size: 2, learning_rate: 0.1}
"""


@pytest.fixture
def validate(
    tmp_path: Path,
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Validates the experiment with overrides; gives what is said, and checks the status."""
    install("vlrun-asking", SOURCE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ask.yaml").write_text(EXPERIMENT)
    (tmp_path / "answers.json").write_text('["a", "b"]')
    write_features(tmp_path / "f.lmdb", ["a", "b"])
    write_weights(tmp_path, 2, ["a", "b"])
    for split in ("train", "val"):
        write_split(tmp_path, split, answers=["a"])

    def run(status: int, *overrides: str) -> str:
        assert main(["validate", "ask.yaml", *overrides]) == status, capsys.readouterr().err
        said = capsys.readouterr()
        return said.out + said.err

    return run


def write_weights(folder: Path, rows: int, answers: list[str] | None) -> None:
    heads = {} if answers is None else {"answer_head": {"answers": answers}}
    tensors = {"answer_head.dense1.weight": torch.zeros(rows, 3), "answer_head.dense1.bias": torch.zeros(rows)}
    save_file(tensors, folder / "weights.safetensors", {"vlrun": json.dumps({"backbone": "net", "heads": heads})})


def write_features(path: Path, images: list[str], **facts: str) -> None:
    features, boxes = np.ones((2, 4), np.float16), np.tile(np.float32([0, 0, 5, 5]), (2, 1))
    write_store(path, [RegionFeatures(image, features, boxes, 9, 9) for image in images], **facts)


def write_split(folder: Path, split: str, **target: Any) -> None:
    lines = [{"id": "0", "image": "a", "text": "hidden"}, {"id": "1", "image": "b", "text": "?", **target}]
    (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_what_fits_is_ok(validate: Callable[..., str]) -> None:
    assert "ask: ok" in validate(0)
    assert "ask: ok" in validate(0, "tasks.0.loss=kl-then-bce")


@pytest.mark.parametrize(
    ("rows", "answers", "what"),
    [
        (3, ["a", "b"], "a head for 3 answers and were imported with a list of 2"),
        (2, ["a", "b", "c"], "a head for 2 answers and were imported with a list of 3"),
        (2, None, "a head for 2 answers and do not say which"),
    ],
)
def test_a_head_that_does_not_fit_its_list_is_found(
    validate: Callable[..., str], tmp_path: Path, rows: int, answers: list[str] | None, what: str
) -> None:
    write_weights(tmp_path, rows, answers)
    message = validate(6)
    assert what in message
    assert "weights.safetensors: task 'ask'" in message
    assert "--answers FILE" in message
    validate(0, "tasks.0.transfer_head=false")


def test_damaged_weights_and_those_of_another_kind_are_found(validate: Callable[..., str], tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    whole = weights.read_bytes()
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"no weights at all", whole[:-1]):
        weights.write_bytes(content)
        assert "weights.safetensors: cannot be read, it may be damaged: " in validate(6)
    (tmp_path / "model.pth").write_bytes(whole)
    message = validate(6, "backbone.weights=model.pth")
    assert "only imported weights (.safetensors) can be loaded" in message
    assert "runner weights import --from FORMAT" in message


def write_network(folder: Path, width: int, layers: int, *, backbone: str = "deep", regions: int = 2048) -> None:
    tensors = {"words.weight": torch.zeros(5, width), "regions.weight": torch.zeros(width, regions)}
    tensors |= {f"layers.{number}.weight": torch.zeros(width) for number in range(layers)}
    save_file(tensors, folder / "weights.safetensors", {"vlrun": json.dumps({"backbone": backbone})})


@pytest.mark.parametrize(
    ("network", "overrides", "said"),
    [
        ({"width": 8, "layers": 3}, [], None),
        ({"width": 8, "layers": 3, "backbone": "elder"}, [], None),  # a plugin of its own for the same network
        ({"width": 8, "layers": 3}, ["backbone.num_heads=4"], None),  # no tensor tells
        (
            {"width": 4, "layers": 1},
            [],
            "a network with hidden_size 4 and not 8, num_layers 1 and not 3; import others, or set backbone.size=tiny",
        ),
        (
            {"width": 8, "layers": 5, "backbone": "elder"},
            [],
            "with num_layers 5 and not 3 (they were imported for backbone 'elder'); import others, or set "
            "backbone.num_layers=5",
        ),
        ({"width": 8, "layers": 5}, ["backbone.num_layers=5"], None),
        ({"width": 8, "layers": 3, "regions": 16}, [], "set backbone.region_feature_size=16"),
    ],
)
def test_weights_of_another_size_are_found_by_their_header(
    validate: Callable[..., str], tmp_path: Path, network: dict[str, Any], overrides: list[str], said: str | None
) -> None:
    (tmp_path / "vocab").mkdir()
    (tmp_path / "vocab" / "bert-base-uncased.txt").write_text("[PAD]\n")
    write_network(tmp_path, **network)
    message = validate(6 if said else 0, "backbone.name=deep", *overrides)
    assert (said or "ask: ok") in message


def test_weights_of_another_backbone_are_found_by_their_header(validate: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    (tmp_path / "vocab" / "bert-base-uncased.txt").write_text("[PAD]\n")
    message = validate(6, "backbone.name=deep")
    assert "weights.safetensors: imported for backbone 'net', and the experiment has 'deep'" in message
    tensors = {"words.weight": torch.zeros(5, 6)}
    facts = {"backbone": "deep", "partial": True}
    save_file(tensors, tmp_path / "weights.safetensors", {"vlrun": json.dumps(facts)})
    assert "hidden_size 6 and not 8" in validate(6, "backbone.name=deep")


def test_images_without_features_of_all_tasks_are_found_counted_and_named(
    validate: Callable[..., str], tmp_path: Path
) -> None:
    assert "  images    2 images, all in " in validate(0)
    write_features(tmp_path / "half.lmdb", ["a"])
    second = (
        "{name: ask, label: other, dataset: {name: questions, annotations: ., features: half.lmdb, evaluate: [val]}}"
    )
    with (tmp_path / "ask.yaml").open("a") as file:
        file.write("name: two\n")
    text = (
        (tmp_path / "ask.yaml")
        .read_text()
        .replace("f.lmdb", "half.lmdb")
        .replace("train: {epochs", f"  - {second}\ntrain: {{epochs")
    )
    (tmp_path / "ask.yaml").write_text(text)
    message = validate(5)
    for task in ("ask", "other"):
        assert f"task '{task}': " in message
    assert message.count("half.lmdb (1 image) lacks 1 image that the data need") == 2
    assert "val: missing b" in message
    allowed = [f"tasks.{number}.dataset.allow_missing_features=true" for number in range(2)]
    assert "2 images, all but 1 in" in validate(0, *allowed)


def test_features_of_another_kind_than_the_weights_are_found(validate: Callable[..., str], tmp_path: Path) -> None:
    facts = {"backbone": "net", "features": {"extractor": "bua-caffe"}}
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors", {"vlrun": json.dumps(facts)})
    assert "features not compared: ask: not stated" in validate(0)
    write_features(tmp_path / "g.lmdb", ["a", "b"], extractor="vinvl")
    message = validate(5, "tasks.0.dataset.features=g.lmdb")
    assert "are vinvl" in message
    assert "was trained on bua-caffe" in message
    assert "other features: ask" in validate(
        0, "tasks.0.dataset.features=g.lmdb", "tasks.0.dataset.accept_other_features=true"
    )


def test_a_damaged_store_is_found(validate: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "f.lmdb" / "data.mdb"
    file.write_bytes(file.read_bytes()[:5000])
    assert "is truncated" in validate(5)


def test_validating_what_is_there_imports_no_torch(validate: Callable[..., str], tmp_path: Path) -> None:
    validate(0)
    code = (
        "import sys; from vlrun.cli import main; status = main(['validate', 'ask.yaml']); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site-packages"), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "ask: ok" in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("loss", ["kl", "kl-then-bce"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_loss_that_needs_answers_is_refused_where_there_are_scores_alone(
    validate: Callable[..., str], tmp_path: Path, loss: str, split: str
) -> None:
    write_split(tmp_path, split, scores={"a": 0.9})
    message = validate(5, f"tasks.0.loss={loss}")
    assert f"{split}.jsonl:2: question '1' comes with scores" in message
    assert f"loss '{loss}' is impossible; use loss: bce" in message
    validate(0, "tasks.0.loss=bce")
    validate(5 if split == "val" else 0, f"tasks.0.loss={loss}", "train.epochs=0")


@pytest.mark.parametrize(("epochs", "such_as"), [(1, "0.1"), (2, "0.2")])
def test_a_warm_up_as_long_as_the_training_is_refused_with_what_to_set(
    validate: Callable[..., str], epochs: int, such_as: str
) -> None:
    warm_up = ["train.schedule.name=warmup-linear", f"train.schedule.warmup_epochs={epochs}", f"train.epochs={epochs}"]
    message = validate(3, *warm_up)
    assert f"warmup_epochs {epochs} is not less than the {epochs} epoch" in message
    assert f"set train.schedule.warmup_epochs to less, such as {such_as} " in message
    validate(0, *warm_up[:2], f"train.epochs={epochs + 1}")
    validate(0, *warm_up[:2], "train.epochs=0")
    validate(0, *warm_up, f"train.schedule.schedule_epochs={epochs + 1}")
