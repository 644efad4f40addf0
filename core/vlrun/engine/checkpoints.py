"""Checkpoints that are complete or absent: weights, optimiser and progress, each with a hash, renamed into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim import Optimizer

from vlrun.engine.averaging import AveragedWeights
from vlrun.engine.optimizer_state import fill_optimizer, optimizer_tensors
from vlrun.errors import CheckpointError, no_room
from vlrun.files import make_readable, point_symlink, sha256_of, sync_folder, write_json
from vlrun.foreign.json import parse_json

MODEL, OPTIMIZER, PROGRESS, MANIFEST = "model.safetensors", "optimizer.safetensors", "progress.json", "manifest.json"
HEADS, NAMED_HEADS = "heads.json", "named_heads.json"
TRAINED = "trained.safetensors"
"""The weights from which training goes on, where those of ``MODEL`` are their average."""

CALLBACKS = "callbacks.safetensors"
"""What callbacks keep; only where there is anything."""

_KNOWN = {HEADS, NAMED_HEADS, TRAINED, CALLBACKS}

_Json = TypeVar("_Json", dict[str, Any], list[dict[str, Any]])

_REPLACED, _PARTIAL = ".replaced", ".partial"


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
        return self._read(HEADS, dict)

    def named_heads(self) -> list[dict[str, Any]]:
        """The heads that travel, as ``save`` got them; none in a checkpoint of an older version."""
        return self._read(NAMED_HEADS, list)

    def load_model(self, model: nn.Module) -> None:
        """Fills ``model`` strictly; raises CheckpointError where names or shapes differ, or it holds no weights."""
        self._fill(model, MODEL)

    @property
    def trained(self) -> Path:
        """The file of the weights from which training goes on."""
        apart = self.path / TRAINED
        return apart if apart.exists() else self.path / MODEL

    def load_trained(self, model: nn.Module) -> None:
        """As ``load_model``, with the weights from which training goes on."""
        self._fill(model, self.trained.name)

    def callback_state(self) -> dict[str, Tensor]:
        """What callbacks keep, as ``save`` got it; empty where there is nothing."""
        with self._readable(CALLBACKS):
            return load_file(self.path / CALLBACKS) if (self.path / CALLBACKS).exists() else {}

    def load_optimizer(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Fills the state of ``optimizer``, by the names of the parameters, in whatever groups they are.

        Raises:
            CheckpointError: the file is no file of tensors.
        """
        with self._readable(OPTIMIZER):
            tensors = load_file(self.path / OPTIMIZER)
        fill_optimizer(optimizer, model, tensors)

    def _fill(self, model: nn.Module, name: str) -> None:
        try:
            with self._readable(name):
                load_model(model, self.path / name)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path}: the weights do not fit this model: {error}") from error

    def _read(self, name: str, kind: type[_Json]) -> _Json:
        """The JSON in one of its files; empty where an older version has written none."""
        path = self.path / name
        if not path.exists():
            return kind()
        with self._readable(name):
            content = parse_json(path.read_bytes(), allow_nan=True)
            if not isinstance(content, kind):
                raise ValueError(f"it holds {type(content).__name__}, expected {kind.__name__}")
        return content

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Refuses a file that agrees with its hash and is of another kind all the same: somebody has put it there."""
        try:
            yield
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {self.path} is damaged: {name} cannot be read: {error}") from error


class Checkpoints:
    """The checkpoints of a run: ``step_00000120/``, with ``last`` and ``best`` pointing at two of them.

    From the first save on there is a complete checkpoint at every moment, even if the process is killed: a new one is
    written beside the others; an earlier one of the same step moves aside (``step_00000120.replaced``) until the new
    one is in place; and a damaged one never counts among those to keep.
    """

    def __init__(self, folder: Path, *, model_only: bool = False) -> None:
        """``model_only``: whether nothing will be trained, so that the optimiser's large files need not be checked."""
        self.folder = folder
        self.model_only = model_only
        self.damaged: set[str] = set()

    def save(
        self,
        progress: Progress,
        model: nn.Module,
        optimizer: Optimizer,
        heads: Mapping[str, Any] | None = None,
        named_heads: Sequence[Mapping[str, Any]] = (),
        average: AveragedWeights | None = None,
        callbacks: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Path:
        """Writes a checkpoint beside the others, then renames it into place.

        Args:
            heads: what the head of each task means.
            named_heads: ``name``, ``module`` (its name in ``model``) and ``meaning`` of each head that travels.
            average: of the weights, which is what the model of the checkpoint is then.
            callbacks: what these keep.

        Raises:
            CheckpointError: it cannot be written, for instance because the disk is full; earlier ones stay as they are.
        """
        final = self.folder / f"step_{progress.step:08d}"
        temporary = self.folder / f".{final.name}{_PARTIAL}"
        shutil.rmtree(temporary, ignore_errors=True)
        state = optimizer_tensors(optimizer, model)
        try:
            temporary.mkdir(parents=True)
            with nullcontext() if average is None else average.applied():
                save_model(model, str(temporary / MODEL))  # a tensor that two names share is written once
            if average is not None:
                save_model(model, str(temporary / TRAINED))
            save_file(state, temporary / OPTIMIZER)
            if callbacks:
                save_file(dict(callbacks), temporary / CALLBACKS)
            files = [MODEL, OPTIMIZER, *([] if average is None else [TRAINED]), *([CALLBACKS] if callbacks else [])]
            for name in files:
                make_readable(temporary / name)
            write_json(temporary / PROGRESS, asdict(progress))
            write_json(temporary / HEADS, dict(heads or {}))
            write_json(temporary / NAMED_HEADS, list(named_heads))
            hashes = {name: sha256_of(temporary / name) for name in (*files, PROGRESS, HEADS, NAMED_HEADS)}
            write_json(temporary / MANIFEST, hashes)
            sync_folder(temporary)
            self._put_in_place(temporary, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            trained = {} if average is None else model.state_dict()
            needed = sum(
                tensor.nbytes for part in (model.state_dict(), trained, state, callbacks) for tensor in part.values()
            )
            raise CheckpointError(f"cannot write {final}: {_reason(error, final, needed)}") from error
        self.damaged.discard(final.name)
        point_symlink(self.folder / "last", final.name)
        return final

    def mark_best(self, step: int, task: str | None = None) -> None:
        """Points ``best`` at a step, or ``best-<task>`` for one task of several."""
        point_symlink(self.folder / _best_name(task), f"step_{step:08d}")

    def prune(self, keep: int) -> None:
        """Removes all but the newest ``keep`` and the best ones; damaged ones do not count."""
        steps = self._newest_first()
        whole = dict.fromkeys(_step_name(path) for path in steps if path.name not in self.damaged)
        kept = [*list(whole)[:keep], *(path.readlink().name for path in self.folder.glob("best*") if path.is_symlink())]
        for path in steps:
            if _step_name(path) not in kept or self._is_superseded(path):
                _remove(path)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint, and why newer ones were refused."""
        refused: list[str] = []
        for path in self._newest_first():
            try:
                return open_checkpoint(path, self.model_only), refused
            except CheckpointError as error:
                self.damaged.add(path.name)
                refused.append(str(error))
        return None, refused

    def tidied(self) -> tuple[Checkpoint | None, list[str]]:
        """As ``newest``, for a run that goes on: ``last`` points there, and nothing is left of killed saves."""
        found, refused = self.newest()
        for path in self.folder.glob(f".step_*{_PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)
        if found is not None:
            point_symlink(self.folder / "last", found.path.name)
        return found, refused

    def has_best(self, task: str | None = None) -> bool:
        """Whether evaluations have chosen a best checkpoint, for ``task`` or for all."""
        return self._chosen(task) is not None

    def final_name(self, choice: str, task: str | None = None) -> str | None:
        """The name of the checkpoint that a run ends with: ``best`` (else the last one) or ``last``; opens nothing."""
        chosen = self._chosen(task) if choice == "best" else None
        newest = self._newest_first()
        return chosen.name if chosen is not None else newest[0].name if newest else None

    def best(self, task: str | None = None) -> Checkpoint | None:
        """The task's own best checkpoint, else that of all tasks, else the newest one."""
        chosen = self._chosen(task)
        return self.newest()[0] if chosen is None else open_checkpoint(chosen, self.model_only)

    def choose(self, choice: str, task: str | None = None) -> Checkpoint:
        """The checkpoint that a user asks for: ``best`` (the task's own if it has one), ``last``, or a folder.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
        """
        if choice not in ("best", "last"):
            return open_checkpoint(Path(choice).resolve(), self.model_only)
        checkpoint, refused = (self.best(task), []) if choice == "best" else self.newest()
        if checkpoint is None:
            raise CheckpointError(refused or f"{self.folder}: there is no checkpoint yet")
        return checkpoint

    def _chosen(self, task: str | None) -> Path | None:
        for link in (self.folder / _best_name(task), self.folder / _best_name(None)):
            name = link.readlink().name if link.is_symlink() else ""
            for path in (self.folder / name, self.folder / (name + _REPLACED)):
                if name and path.is_dir():
                    return path
        return None

    def _put_in_place(self, temporary: Path, final: Path) -> None:
        aside = final.with_name(final.name + _REPLACED)
        if final.exists():
            _remove(aside, ignore_errors=True)  # left by a save that was killed just before its end
            final.rename(aside)
        temporary.rename(final)
        sync_folder(self.folder)
        _remove(aside, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        """All checkpoints, newest first; one that was moved aside comes right after its replacement."""
        steps = self.folder.glob("step_*")
        return sorted(steps, key=lambda path: (_step_name(path), path.name == _step_name(path)), reverse=True)

    def _is_superseded(self, path: Path) -> bool:
        final = path.with_name(_step_name(path))
        return path != final and final.exists() and final.name not in self.damaged


def open_checkpoint(path: Path, model_only: bool = False) -> Checkpoint:
    """Checks every file of a checkpoint against its hash; with ``model_only`` not those of the optimiser.

    Raises:
        CheckpointError: a file is missing or damaged; the message names it.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint folder")
    try:
        hashes = parse_json((path / MANIFEST).read_bytes())
        needed = {MODEL, OPTIMIZER, PROGRESS, *(file.name for file in path.iterdir() if file.name in _KNOWN)}
        if not isinstance(hashes, dict) or not hashes.keys() >= needed:
            raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} does not list the files of a checkpoint")
        for name, expected in hashes.items():
            if not (model_only and name in (OPTIMIZER, TRAINED)) and sha256_of(path / name) != expected:
                raise CheckpointError(f"checkpoint {path} is damaged: {name} does not agree with its hash")
        progress = Progress(**parse_json((path / PROGRESS).read_bytes()))
        if not isinstance(progress.step, int) or not all(
            isinstance(part, dict) for part in (progress.identity, progress.scaler)
        ):
            raise CheckpointError(f"checkpoint {path} is damaged: {PROGRESS} does not say how far it is")
        return Checkpoint(path, progress)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    """Removes a checkpoint; of one that somebody has moved and left a link to, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=ignore_errors)


def _step_name(path: Path) -> str:
    return path.name.removesuffix(_REPLACED)


def _best_name(task: str | None) -> str:
    return "best" if task is None else f"best-{task}"


def _reason(error: Exception, path: Path, needed: int) -> str:
    full = no_room(error, path, needed)
    return str(error) if full is None else f"{full.strerror}; free some space, or name a place on another disk"
