"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vlrun.engine import checkpoints as checkpoints_module
from vlrun.engine.averaging import AveragedWeights
from vlrun.engine.checkpoints import CALLBACKS, MANIFEST, TRAINED, Checkpoints, Progress, open_checkpoint
from vlrun.engine.evaluation_history import EvaluationHistory
from vlrun.errors import CheckpointError
from vlrun.interfaces.examples import Score


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model["used"](torch.rand(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_saving_and_loading_is_bit_identical_also_with_frozen_weights(tmp_path: Path) -> None:
    model, optimizer = trained()
    checkpoint = open_checkpoint(Checkpoints(tmp_path).save(Progress(7, {"vocabulary": "v"}), model, optimizer))
    other, other_optimizer = trained(seed=1)
    checkpoint.load_model(other)
    checkpoint.load_optimizer(other_optimizer, other)
    again = Checkpoints(tmp_path / "again").save(checkpoint.progress, other, other_optimizer)
    for name in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        assert (again / name).read_bytes() == (checkpoint.path / name).read_bytes()


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_all_files_of_a_checkpoint_can_be_read_by_whoever_may_read_new_files(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = Checkpoints(tmp_path).save(Progress(1), *trained())
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == dict.fromkeys(
        (
            "model.safetensors",
            "optimizer.safetensors",
            "progress.json",
            "heads.json",
            "named_heads.json",
            "manifest.json",
        ),
        0o666 & ~mask,
    )


def test_a_tensor_with_two_names_is_saved_once_and_stays_shared(tmp_path: Path) -> None:
    model, optimizer = trained()
    model["same"] = model["used"]
    checkpoint = open_checkpoint(Checkpoints(tmp_path).save(Progress(1), model, optimizer))
    before = model["used"].weight.detach().clone()
    with torch.no_grad():
        model["used"].weight.zero_()
    checkpoint.load_model(model)
    assert torch.equal(model["same"].weight, before)


def test_last_and_best_point_at_checkpoints_and_old_ones_go(tmp_path: Path) -> None:
    model, optimizer = trained()
    store = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        store.save(Progress(step), model, optimizer)
        if step == 1:
            store.mark_best(1)
        store.prune(keep=2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == [f"step_0000000{step}" for step in (1, 3, 4)]
    assert (tmp_path / "last").resolve().name == "step_00000004"
    best = store.best()
    assert best is not None
    assert best.progress.step == 1


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_found(
    tmp_path: Path, name: str, damage: str
) -> None:
    model, optimizer = trained()
    store = Checkpoints(tmp_path)
    store.save(Progress(1), model, optimizer)
    newest = store.save(Progress(2), model, optimizer)
    file = newest / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    checkpoint, refused = store.newest()
    assert checkpoint is not None
    assert checkpoint.progress.step == 1
    assert len(refused) == 1
    assert str(newest) in refused[0]


def test_a_full_disk_leaves_earlier_checkpoints_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    store = Checkpoints(tmp_path)
    store.save(Progress(1), model, optimizer)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"write .*step_00000002: No space .*: 0\.00 MB are needed, [\d,.]+ MB are free; free"
    ):
        store.save(Progress(2), model, optimizer)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()] == ["step_00000001"]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, optimizer = trained()
    checkpoint = open_checkpoint(Checkpoints(tmp_path).save(Progress(1), model, optimizer))
    with pytest.raises(CheckpointError, match="do not fit this model"):
        checkpoint.load_model(nn.Linear(3, 2))


# --- there is a whole checkpoint at every moment ---

FILE_OPERATIONS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync", "symlink")


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def file_operations(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> Iterator[None]:
    """While it is open, ``before`` is called ahead of every operation that changes folders."""

    def watched(name: str) -> Callable[..., Any]:
        operation = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            before()
            return operation(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in FILE_OPERATIONS:
            patch.setattr(os, name, watched(name))
        yield


def save_and_prune(folder: Path, step: int) -> None:
    checkpoints = Checkpoints(folder)
    checkpoints.newest()  # as a resumed run does
    checkpoints.save(Progress(step), *trained(seed=step))
    checkpoints.mark_best(step)
    checkpoints.prune(keep=1)


@pytest.mark.parametrize("second", [1, 2], ids=["the same step again", "the next step"])
def test_a_kill_at_any_moment_of_a_second_save_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: int
) -> None:
    moments = 0
    while True:
        folder, left = tmp_path / str(moments), [moments]
        save_and_prune(folder, 1)

        def kill(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed  # also in whatever would tidy up: a process that is killed does not

        try:
            with file_operations(monkeypatch, kill):
                save_and_prune(folder, second)
        except Killed:
            pass
        else:
            break
        newest, best = Checkpoints(folder).newest()[0], Checkpoints(folder).best()
        assert newest is not None, f"killed before file operation {moments}"
        assert best is not None
        assert newest.progress.step in (1, second)
        save_and_prune(folder, second)
        assert [path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] == [
            f"step_0000000{second}"
        ]
        moments += 1
    assert moments > 20


def test_pruning_keeps_a_whole_checkpoint_when_the_newest_was_found_damaged(tmp_path: Path) -> None:
    model, optimizer = trained()
    first = Checkpoints(tmp_path)
    first.save(Progress(1), model, optimizer)
    (first.save(Progress(2), model, optimizer) / "model.safetensors").write_bytes(b"damaged")
    resumed = Checkpoints(tmp_path)
    assert len(resumed.newest()[1]) == 1
    resumed.prune(keep=1)
    checkpoint, refused = Checkpoints(tmp_path).newest()
    assert checkpoint is not None
    assert (checkpoint.progress.step, refused) == (1, [])


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"x"', '{"model.safetensors": "0"}'])
def test_a_manifest_must_list_the_files_that_it_vouches_for(tmp_path: Path, content: str) -> None:
    path = Checkpoints(tmp_path).save(Progress(1), *trained())
    (path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json does not list the files of a checkpoint"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", [TRAINED, CALLBACKS])
def test_files_that_not_every_checkpoint_has_are_vouched_for_too(tmp_path: Path, name: str) -> None:
    model, optimizer = trained()
    average, kept = AveragedWeights(model, 0.9), {"watch.steps": torch.tensor(3)}
    average.take()
    path = Checkpoints(tmp_path).save(Progress(1), model, optimizer, average=average, callbacks=kept)
    assert torch.equal(open_checkpoint(path).callback_state()["watch.steps"], kept["watch.steps"])
    content, hashes = (path / name).read_bytes(), json.loads((path / MANIFEST).read_text())
    (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{name} does not agree with its hash"):
        open_checkpoint(path)
    (path / MANIFEST).write_text(json.dumps({key: value for key, value in hashes.items() if key != name}))
    with pytest.raises(CheckpointError, match="does not list the files of a checkpoint"):
        open_checkpoint(path)


def test_a_checkpoint_that_was_moved_to_another_disk_goes_by_its_link(tmp_path: Path) -> None:
    """Who moves large folders away leaves a link; what it points at is not the run's to remove."""
    model, optimizer = trained()
    store, elsewhere = Checkpoints(tmp_path / "checkpoints"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for step in (1, 2):
        moved = store.save(Progress(step), model, optimizer)
        moved.rename(elsewhere / moved.name)
        moved.symlink_to(elsewhere / moved.name)
    assert store.choose("last").progress.step == 2
    store.save(Progress(2), model, optimizer)
    store.save(Progress(3), model, optimizer)
    store.prune(keep=2)
    kept = [path.name for path in store.folder.glob("step_*")]
    assert sorted(kept) == ["step_00000002", "step_00000003"]
    assert not any((store.folder / name).is_symlink() for name in kept)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["step_00000001", "step_00000002"]


def test_a_checkpoint_is_chosen_as_users_name_it(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        store.choose("last")
    paths = [store.save(Progress(step), *trained()) for step in (1, 2, 3)]
    store.mark_best(1)
    store.mark_best(2, "b")
    chosen = [store.choose("best"), store.choose("best", "b"), store.choose("last"), store.choose(str(paths[0]))]
    assert [checkpoint.progress.step for checkpoint in chosen] == [1, 2, 3, 1]


# --- the best of a run ---


def history(tmp_path: Path, higher_is_better: dict[str, bool], *evaluations: dict[str, float]) -> EvaluationHistory:
    found = EvaluationHistory(tmp_path / "evaluations.json")
    for step, values in enumerate(evaluations, start=1):
        for task, value in values.items():
            score = Score("score", value, primary=True, higher_is_better=higher_is_better[task])
            found.add(step, task, "val", [score])
    return found


def test_the_best_step_of_one_task_is_the_earliest_of_the_best(tmp_path: Path) -> None:
    up = history(tmp_path, {"a": True}, {"a": 0.0}, {"a": 3.0}, {"a": 3.0}, {"a": 2.0})
    assert up.best_step(["a"]) == 2
    down = history(tmp_path, {"a": False}, {"a": 5.0}, {"a": 3.0}, {"a": 3.0}, {"a": 4.0})
    assert down.best_step(["a"]) == 2


@pytest.mark.parametrize("unit", [1.0, 100.0], ids=["as a share", "in percent"])
def test_the_best_step_of_several_tasks_depends_on_no_unit_and_knows_what_is_better(
    tmp_path: Path, unit: float
) -> None:
    """The accuracy gains a half, the perplexity, where less is better, loses a hundredth."""
    directions = {"accuracy": True, "perplexity": False}
    first = {"accuracy": 0.4 * unit, "perplexity": 100.0}
    found = history(tmp_path, directions, first, {"accuracy": 0.6 * unit, "perplexity": 101.0})
    assert found.best_step(["accuracy", "perplexity"]) == 2
    found = history(tmp_path, directions, first, {"accuracy": 0.404 * unit, "perplexity": 150.0})
    assert found.best_step(["accuracy", "perplexity"]) == 1


def test_only_the_newest_step_can_become_the_best(tmp_path: Path) -> None:
    """Checkpoints that were not the best when the next came may be gone."""
    values = [{"a": 50.0, "b": 10.0}, {"a": 40.0, "b": 30.0}, {"a": 60.0, "b": 12.0}, {"a": 10.0, "b": 90.0}]
    best = [
        history(tmp_path, {"a": True, "b": True}, *values[:count]).best_step(["a", "b"])
        for count in range(1, len(values) + 1)
    ]
    assert all(now in (before, count) for count, (before, now) in enumerate(pairwise(best), start=2))
    assert len(set(best)) > 1
