"""Checkpoints that are whole or not there: weights, optimiser and progress with a hash each, renamed into place."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim import Optimizer

from vlrun.errors import CheckpointError
from vlrun.files import point_symlink, sha256_of, sync_folder, write_json

MODEL, OPTIMIZER, PROGRESS, MANIFEST = "model.safetensors", "optimizer.safetensors", "progress.json", "manifest.json"
HEADS = "heads.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Order and randomness derive from it, so nothing else has to be kept.

    Attributes:
        step: optimiser steps done.
        identity: what must be the same to continue, such as the hash of the vocabulary.
        scaler: state of the fp16 gradient scaler, or empty.
    """

    step: int
    identity: Mapping[str, str] = field(default_factory=dict)
    scaler: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder whose files agree with their hashes."""

    path: Path
    progress: Progress

    def head_meanings(self) -> dict[str, Any]:
        """What the numbers of each task's head mean; empty in a checkpoint of an older version."""
        path = self.path / HEADS
        meanings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return meanings

    def load_model(self, model: nn.Module) -> None:
        """Fills ``model`` strictly.

        Raises:
            CheckpointError: names or shapes differ.
        """
        try:
            load_model(model, self.path / MODEL)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path}: the weights do not fit this model: {error}") from error

    def load_optimizer(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Fills the state of ``optimizer``, by name of the parameter."""
        tensors = load_file(self.path / OPTIMIZER)
        for name, parameter in _named(optimizer, model).items():
            prefix = f"{name}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if state:
                optimizer.state[parameter] = {key: _beside(parameter, key, value) for key, value in state.items()}


class Checkpoints:
    """The checkpoints of a run: ``step_00000120/``, with ``last`` and ``best`` pointing at two of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self, progress: Progress, model: nn.Module, optimizer: Optimizer, heads: Mapping[str, Any] | None = None
    ) -> Path:
        """Writes a checkpoint beside the others, then renames it into place; ``heads`` is what each head means.

        Raises:
            CheckpointError: it cannot be written, such as when the disk is full; earlier ones stay as they are.
        """
        final = self.folder / f"step_{progress.step:08d}"
        temporary = self.folder / f".{final.name}.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            save_model(model, str(temporary / MODEL))  # a tensor that two names share is written once
            save_file(_optimizer_tensors(optimizer, model), temporary / OPTIMIZER)
            write_json(temporary / PROGRESS, asdict(progress))
            write_json(temporary / HEADS, dict(heads or {}))
            hashes = {name: sha256_of(temporary / name) for name in (MODEL, OPTIMIZER, PROGRESS, HEADS)}
            write_json(temporary / MANIFEST, hashes)
            sync_folder(temporary)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            sync_folder(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"cannot write {final}: {_reason(error)}") from error
        point_symlink(self.folder / "last", final.name)
        return final

    def mark_best(self, step: int, task: str | None = None) -> None:
        """Points ``best`` at a step, or, of a task beside others, ``best-<task>``."""
        point_symlink(self.folder / _best_name(task), f"step_{step:08d}")

    def prune(self, keep: int) -> None:
        """Removes all but the newest ``keep`` and the best ones."""
        kept = [path.name for path in self._newest_first()[:keep]]
        kept += [path.readlink().name for path in self.folder.glob("best*") if path.is_symlink()]
        for path in self._newest_first():
            if path.name not in kept:
                shutil.rmtree(path)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint, and why newer ones were refused."""
        refused: list[str] = []
        for path in self._newest_first():
            try:
                return open_checkpoint(path), refused
            except CheckpointError as error:
                refused.append(str(error))
        return None, refused

    def has_best(self, task: str | None = None) -> bool:
        """Whether evaluations have chosen a best checkpoint, for ``task`` or for all."""
        return any((self.folder / _best_name(name)).exists() for name in (task, None))

    def best(self, task: str | None = None) -> Checkpoint | None:
        """The best checkpoint, of a task where it has its own, or the newest one where none was chosen."""
        path = self.folder / _best_name(task)
        if not path.exists():
            path = self.folder / _best_name(None)
        return open_checkpoint(path.resolve()) if path.exists() else self.newest()[0]

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step_*"), reverse=True)


def open_checkpoint(path: Path) -> Checkpoint:
    """Checks every file of a checkpoint against its hash.

    Raises:
        CheckpointError: a file is missing or damaged; the message names it.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint folder")
    try:
        hashes = json.loads((path / MANIFEST).read_text())
        for name, expected in hashes.items():
            if sha256_of(path / name) != expected:
                raise CheckpointError(f"checkpoint {path} is damaged: {name} does not agree with its hash")
        return Checkpoint(path, Progress(**json.loads((path / PROGRESS).read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error


def _best_name(task: str | None) -> str:
    return "best" if task is None else f"best-{task}"


def _named(optimizer: Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}


def _optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": torch.as_tensor(value).contiguous()
        for name, parameter in _named(optimizer, model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _beside(parameter: Tensor, key: str, value: Tensor) -> Tensor:
    """Moments lie on the parameter's device; the step count does where the kernel is fused, and may anywhere."""
    return value.to(parameter.device) if key != "step" or parameter.is_cuda else value


def _reason(error: Exception) -> str:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "the disk is full" if full or "No space left" in str(error) else str(error)
