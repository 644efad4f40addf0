"""What a kill leaves is completed or removed by the next start, and nothing is written through a link."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toy_world as toy
from toy_runs import experiment, stop_after_step, weights

from vlrun.cli import data_get
from vlrun.engine.checkpoints import MANIFEST, Checkpoints
from vlrun.engine.claim import CLAIM
from vlrun.engine.weight_files import read_foreign
from vlrun.errors import CheckpointError, ConfigError, DataError, StoppedOnRequest
from vlrun.features.writer import StoreWriter
from vlrun.files import lock_file, made_whole, point_symlink, read_arrays, remove_left_over, write_text
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.reporting.log import LogReporter
from vlrun.runs.run import run_experiment


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def stopped(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        stop_after_step(patch, 5)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    return (world / "runs" / "toy" / "latest").resolve()


def drafts_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What a kill leaves of each kind of write."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        for name in ("replace", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, kill)
        for write in (write_text, _make_whole, point_symlink):
            with pytest.raises(Killed):
                write(folder / write.__name__, "x")  # type: ignore[operator]
    return list(folder.rglob("*.partial"))


def _make_whole(path: Path, text: str) -> None:
    with made_whole(path) as draft:
        draft.write_text(text)
        os.rename(draft, path)


def test_drafts_of_killed_writers_go_and_those_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "predictions"
    inner.mkdir()
    mine = drafts_of(inner, monkeypatch)
    assert len(mine) >= 2
    theirs = inner / f".scores.json.{os.getppid()}.abcdefgh.partial"
    unlike = inner / ".scores.npy.partial"
    for path in (theirs, unlike):
        path.touch()
    remove_left_over(tmp_path)
    assert sorted(inner.iterdir()) == [theirs, unlike]


def test_a_resumed_run_is_swept_and_has_its_link_to_the_last_checkpoint(
    world: Path, plugins: Plugins, stopped: Path
) -> None:
    left = stopped / "predictions" / f".match_val.jsonl.{os.getpid()}.abcdefgh.partial"
    left.parent.mkdir()
    left.touch()
    half = stopped / "checkpoints" / ".step_00000004.partial"  # nobody saves that step again
    half.mkdir()
    (stopped / "checkpoints" / "last").unlink()
    point_symlink(stopped / "checkpoints" / "last", "step_00000003")
    result = run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert result.folder == stopped
    assert not left.exists()
    assert list(stopped.rglob(".*")) == []
    assert (stopped / "checkpoints" / "last").resolve().name == "step_00000009"


def test_the_last_link_is_right_although_nothing_is_left_to_save(
    world: Path, plugins: Plugins, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(stopped / "checkpoints")
    (stopped / "checkpoints" / "last").unlink()
    found, _ = checkpoints.tidied()
    assert found is not None
    assert (stopped / "checkpoints" / "last").readlink().name == found.path.name == "step_00000005"


def test_a_run_that_is_killed_while_it_writes_its_report_is_not_done(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Reporters, "finish", kill)
        with pytest.raises(Killed):
            run_experiment(experiment(world, plugins), plugins=plugins)
    folder = (world / "runs" / "toy" / "latest").resolve()
    assert json.loads((folder / "status.json").read_text())["status"] == "running"
    before = weights(folder)
    result = run_experiment(experiment(world, plugins, "built_in_reporters=true"), plugins=plugins, continues=True)
    assert result.folder == folder
    assert (folder / "report.html").exists()
    assert all((tensor == weights(folder)[name]).all() for name, tensor in before.items())


def test_a_folder_of_a_run_that_was_killed_before_it_started_goes_with_the_next_start(
    world: Path, plugins: Plugins
) -> None:
    runs = world / "runs" / "toy"
    killed, elsewhere, failed = (runs / f"20260101-00000{number}-aaaaaa" for number in range(3))
    owner = {"host": socket.gethostname(), "process": 2**22 + 1, "since": "2026", "mark": "x"}
    for folder, changes, status in (
        (killed, {}, "running"),
        (elsewhere, {"host": "elsewhere"}, "running"),
        (failed, {}, "failed"),
    ):
        folder.mkdir(parents=True)
        (folder / CLAIM).write_text(json.dumps({**owner, **changes}))
        (folder / "status.json").write_text(json.dumps({"status": status}))
    empty, new = (runs / f"20260101-00000{number}-aaaaaa" for number in (3, 4))
    empty.mkdir()
    os.utime(empty, (0, 0))
    new.mkdir()  # somebody is about to claim it
    run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)
    assert not killed.exists()
    assert not empty.exists()
    assert new.exists()
    assert elsewhere.exists()
    assert failed.exists()


# --- links ---


@pytest.mark.parametrize("what", ["lock", "log", "build", "get"])
def test_a_link_is_not_followed(tmp_path: Path, what: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    folder = tmp_path / "here"
    folder.mkdir()

    def linked(name: str) -> Path:
        (folder / name).symlink_to(precious)
        return folder / name

    if what == "lock":
        with pytest.raises(OSError, match="symbolic links"):
            lock_file(linked(".lock"))
    elif what == "log":
        linked("log.txt")
        from vlrun.interfaces.reporter import RunInfo

        with pytest.raises(OSError, match="symbolic links"):
            LogReporter().start(RunInfo("toy", folder, [], 1, 1, 1))
    elif what == "build":
        (folder / "store.lmdb.partial").mkdir()
        (folder / "store.lmdb.partial" / "lock").symlink_to(precious)
        with pytest.raises(DataError, match="symbolic links"):
            StoreWriter(folder / "store.lmdb", dtype="float16", signature="")
    else:
        linked(".lock")
        with pytest.raises(DataError, match="symbolic links"), data_get._alone(folder):
            pass
    assert precious.read_text() == "keep me"


def test_a_build_does_not_write_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store.lmdb.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        StoreWriter(tmp_path / "store.lmdb", dtype="float16", signature="")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- damaged files ---


def damages(content: bytes) -> list[bytes]:
    """Cuts, and 50 places with a flipped bit."""
    places = np.linspace(0, len(content) - 1, 50).astype(int)
    flipped = [content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :] for at in places]
    return [b"", content[:1], content[: len(content) // 2], content[:-1], *flipped]


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damaged_arrays_are_an_error_or_what_they_were(tmp_path: Path, write: Callable[..., None]) -> None:
    whole = np.arange(300, dtype=np.int32)
    write(tmp_path / "a.npz", table=whole, facts=np.array("x"))
    content = (tmp_path / "a.npz").read_bytes()
    found = 0
    for damaged in damages(content):
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            arrays = read_arrays(tmp_path / "a.npz", ["table", "facts"])
        except DataError as error:
            assert "a.npz: damaged" in str(error)
            found += 1
        else:
            assert (arrays["table"] == whole).all()
    assert found > 20


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_foreign_weights_are_an_error_or_tensors(tmp_path: Path, legacy: bool) -> None:
    import torch

    torch.save({"w": torch.arange(40.0)}, tmp_path / "w.bin", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "w.bin").read_bytes()
    for damaged in damages(content):
        (tmp_path / "w.bin").write_bytes(damaged)
        try:
            read_foreign(tmp_path / "w.bin")
        except CheckpointError as error:
            assert "w.bin" in str(error)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"x"', "1", "[" * 100_000, "", "{"])
def test_a_manifest_that_vouches_for_nothing_is_refused(stopped: Path, content: str) -> None:
    newest = stopped / "checkpoints" / "step_00000005"
    (newest / MANIFEST).write_text(content)
    found, refused = Checkpoints(stopped / "checkpoints").newest()
    assert found is not None
    assert found.path.name == "step_00000003"
    assert str(newest) in refused[0]


def test_every_file_of_a_checkpoint_is_vouched_for(stopped: Path) -> None:
    manifest = stopped / "checkpoints" / "step_00000005" / MANIFEST
    hashes = json.loads(manifest.read_text())
    for name in hashes:
        manifest.write_text(json.dumps({key: value for key, value in hashes.items() if key != name}))
        assert Checkpoints(stopped / "checkpoints").newest()[1], name


# --- names ---


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("tasks.0.label={}", "must not be longer than 100 bytes"),
        ("tasks.0.dataset.evaluate=[{}]", "must not be longer than 100 bytes"),
        ("name={}", "must not be longer than 100 bytes"),
        ("tasks.0.label=a.b", "must not hold a dot"),
    ],
)
def test_names_that_cannot_be_used_are_refused_with_the_configuration(
    world: Path, plugins: Plugins, override: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        experiment(world, plugins, override.format("ü" * 60))


def test_a_label_that_torch_keeps_for_itself_is_refused(world: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"cannot have this label.*'items'"):
        run_experiment(experiment(world, plugins, "tasks.0.label=items", "published=null"), plugins=plugins)


def test_the_longest_names_can_be_written(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    split = "s" * 100
    monkeypatch.setitem(toy.SIZES, split, 3)
    (world / "data" / f"{split}.jsonl").touch()
    options = ("train.epochs=1", f"tasks.0.label={'t' * 100}", f"tasks.0.dataset.evaluate=[{split}]", "published=null")
    folder = run_experiment(experiment(world, plugins, *options), plugins=plugins).folder
    assert (folder / "predictions" / f"{'t' * 100}_{split}.jsonl").exists()
