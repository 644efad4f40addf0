"""``features.stage``: a store is copied once per machine, whole or not at all, and read there."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import toy_world as toy
from toy_runs import experiment, losses, ranks_run

from vlrun.engine import staging as engine
from vlrun.engine.staging import stage_folder
from vlrun.errors import ConfigError, DataError
from vlrun.features import staging
from vlrun.features.staging import staged_copy
from vlrun.features.store import RegionFeatureStore
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import changed_options, run_experiment


def nothing(done: int, total: int) -> None:
    """Is told the progress."""


@pytest.fixture
def store(tmp_path: Path) -> RegionFeatureStore:
    toy.write_toy_store(tmp_path / "toys.lmdb")
    return RegionFeatureStore(tmp_path / "toys.lmdb")


def test_a_copy_is_made_once_and_read_instead(store: RegionFeatureStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    copy = staged_copy(store, tmp_path / "local", lambda done, total: told.append((done, total)))
    size = store.file.stat().st_size
    assert told[-1] == (size, size)
    again = staged_copy(store, tmp_path / "local", lambda *_: pytest.fail("copied again"))
    assert again == copy
    assert [path.name for path in copy.parent.iterdir() if path.name[0] != "."] == [copy.name]
    near = pickle.loads(pickle.dumps(RegionFeatureStore(store.path, copy)))
    shutil.rmtree(store.path) if store.path.is_dir() else store.path.unlink()
    assert near.path == store.path
    assert (near["img1"].features == toy.image_features(1).features).all()


def test_a_copy_that_was_broken_off_is_continued(
    store: RegionFeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_BLOCK", 4096)
    whole = store.file.read_bytes()
    assert len(whole) >= 5 * 4096

    def break_off(done: int, total: int) -> None:
        if done == 4 * 4096:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        staged_copy(store, tmp_path / "local", break_off)
    assert not list((tmp_path / "local").glob("[!.]*"))
    told: list[int] = []
    copy = staged_copy(store, tmp_path / "local", lambda done, total: told.append(done))
    assert told[0] > 4096, "not from the start"
    assert copy.read_bytes() == whole


def test_a_damaged_copy_is_made_again(store: RegionFeatureStore, tmp_path: Path) -> None:
    copy = staged_copy(store, tmp_path / "local", nothing)
    copy.write_bytes(copy.read_bytes()[:-1])
    assert staged_copy(store, tmp_path / "local", nothing).read_bytes() == store.file.read_bytes()


def test_what_wants_it_at_the_same_time_waits_for_one_copy(
    store: RegionFeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []
    copy = staging._copy

    def slowly(*arguments: object) -> None:
        time.sleep(0.2)
        copied.append(arguments[1])
        copy(*arguments)

    monkeypatch.setattr(staging, "_copy", slowly)
    threads = [threading.Thread(target=staged_copy, args=(store, tmp_path / "local", nothing)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == 1


def test_too_little_space_is_said_before_anything_is_copied(
    store: RegionFeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(DataError, match=r"features\.stage: .*toys.lmdb takes 0\.0 GB, and .*local has 0\.0 GB free"):
        staged_copy(store, tmp_path / "local", nothing)
    assert not list((tmp_path / "local").glob("*.partial"))


def test_a_folder_that_cannot_be_is_refused(store: RegionFeatureStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"features\.stage: .*file/local cannot be written"):
        staged_copy(store, tmp_path / "file" / "local", nothing)


def test_variables_are_those_of_each_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH_HERE", str(tmp_path))
    assert stage_folder("$SCRATCH_HERE/stores") == tmp_path / "stores"
    monkeypatch.delenv("SCRATCH_HERE")
    with pytest.raises(ConfigError, match=r"\$SCRATCH_HERE in '\$SCRATCH_HERE/stores' is not set on this machine"):
        stage_folder("$SCRATCH_HERE/stores")


def test_two_processes_read_the_copy_and_learn_the_same(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins)
    monkeypatch.setattr(engine, "_BEAT_SECONDS", 0.05)
    monkeypatch.setenv("VLRUN_STAGE", str(world / "local"))
    loaded = experiment(world, plugins, "train.epochs=1")
    assert loaded.features.stage == str(world / "local")
    staged = run_experiment(loaded, plugins=plugins)
    assert losses(staged) == losses(plain)
    (copy,) = (world / "local").glob("[!.]*.lmdb")
    used: list[object] = []
    made = RegionFeatureStore.__init__
    monkeypatch.setattr(
        RegionFeatureStore, "__init__", lambda self, path, copy=None: (used.append(copy), made(self, path, copy))[1]
    )
    run_experiment(loaded, plugins=plugins)
    assert copy in used
    ranks_run(world, plugins, 2, "train.epochs=1")
    before, after = ((run.folder / "config.yaml").read_text() for run in (plain, staged))
    assert not changed_options(before, after), "it may change on resume"


def test_a_store_that_one_process_cannot_copy_ends_all_with_the_reason(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = engine.staged_copy

    def fail(*arguments: object) -> Path:
        if torch.distributed.get_rank() == 1:
            raise DataError("no space on this machine")
        return copy(*arguments)

    monkeypatch.setattr(engine, "staged_copy", fail)
    monkeypatch.setattr(engine, "_BEAT_SECONDS", 0.05)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, "train.epochs=1", f"features.stage={world / 'local'}")
    assert str(caught.value).count("DataError: no space on this machine") == 2
