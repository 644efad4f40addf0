"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from vlrun.engine import checkpoints as checkpoints_module
from vlrun.engine.checkpoints import Checkpoints, Progress, open_checkpoint
from vlrun.errors import CheckpointError


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model["used"](torch.ones(1, 3)).sum().backward()
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
    with pytest.raises(CheckpointError, match=r"cannot write .*step_00000002: the disk is full"):
        store.save(Progress(2), model, optimizer)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()] == ["step_00000001"]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, optimizer = trained()
    checkpoint = open_checkpoint(Checkpoints(tmp_path).save(Progress(1), model, optimizer))
    with pytest.raises(CheckpointError, match="do not fit this model"):
        checkpoint.load_model(nn.Linear(3, 2))
