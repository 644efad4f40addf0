"""``runner validate`` says what a run would fail of, where headers and first lines show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vlrun.cli import main

SOURCE = """
from pydantic import Field
from vlrun import AnsweringConfig, BackboneConfig, DatasetConfig, Entry, hookimpl

@hookimpl
def vlrun_backbones():
    return [Entry(name="net", summary="", config="vlrun:BackboneConfig", factory="builtins:print")]

@hookimpl
def vlrun_tasks():
    return [Entry(name="ask", summary="", config="vlrun:AnsweringConfig", factory="builtins:print", target="answers")]

@hookimpl
def vlrun_datasets():
    shared = {"config": "vlrun:DatasetConfig", "factory": "builtins:print", "target": "answers"}
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
    (tmp_path / "f.lmdb").mkdir()
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


def write_split(folder: Path, split: str, **target: Any) -> None:
    lines = [{"id": "0", "text": "hidden"}, {"id": "1", "text": "?", **target}]
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


def test_damaged_weights_are_left_to_the_run(validate: Callable[..., str], tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"no weights at all"):
        (tmp_path / "weights.safetensors").write_bytes(content)
        validate(0)


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
