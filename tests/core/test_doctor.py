"""``runner doctor``: plugins that are broken, and experiments that ask for more than a machine has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world as toy
from toy_runs import experiment
from toy_world import NUM_IMAGES, WIDTH, image_features

from vlrun.cli import main
from vlrun.cli.doctor import check_plugins
from vlrun.cli.doctor.experiment_checks import Shape, check_batches, check_experiment, shape_of
from vlrun.cli.doctor.findings import Finding
from vlrun.cli.doctor.machine import Machine, Mount, Space, Torch, read_machine
from vlrun.data.first_batch import HELD_BY_A_WORKER
from vlrun.errors import DataError
from vlrun.features.writer import write_store
from vlrun.interfaces.examples import RegionFeatures
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.demands import Demands, measure_demands

PLUGIN = """
from vlrun import Entry, hookimpl

@hookimpl
def vlrun_metrics():
    return [Entry(name="hits", summary="", config="vlrun:MetricConfig", factory="{factory}")]
"""
MIB = 2**20
MACHINE = Machine("3.11", "Linux", torch=Torch("2.9"), cpus=8, cores=8)


def with_shared_memory(free: int) -> Machine:
    return replace(MACHINE, shared_memory=Space(Path("/dev/shm"), free, free))


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level in ("warning", "error")]


def findings_of(world: Path, plugins: Plugins, machine: Machine, shape: Shape, *overrides: str) -> list[Finding]:
    return list(check_experiment(experiment(world, plugins, *overrides), "toy.yaml", machine, plugins, shape))


def test_plugins_that_load_are_ok() -> None:
    (finding,) = check_plugins(create_plugins())
    assert finding.level == "ok"


def test_a_plugin_that_cannot_be_imported_is_an_error_with_the_reason(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-torn", "import there_is_no_such_module")
    assert main(["doctor", "--json"]) == 7
    said = capsys.readouterr()
    found = [item for item in json.loads(said.out)["findings"] if item["level"] == "error"]
    assert [(item["about"], item["where"]) for item in found] == [("plugins", "vlrun-torn 1.0")]
    assert "No module named 'there_is_no_such_module'" in found[0]["what"]
    assert "pip uninstall vlrun-torn" in found[0]["remedy"]
    assert "not ok: plugins" in said.err


def test_code_that_a_plugin_names_and_does_not_have_is_an_error(install: Callable[..., None]) -> None:
    install("vlrun-hits", PLUGIN.format(factory="vlrun_hits:Absent"))
    assert not bad(check_plugins(create_plugins(), with_code=False))
    (finding,) = bad(check_plugins(create_plugins()))
    assert finding.level == "error"
    assert "cannot load vlrun_hits:Absent" in finding.what


def test_two_plugins_that_offer_one_name_are_an_error_for_both(install: Callable[..., None]) -> None:
    install("vlrun-hits", PLUGIN.format(factory="builtins:print"))
    install("vlrun-scores", PLUGIN.format(factory="builtins:print"))
    found = bad(check_plugins(create_plugins()))
    assert [finding.where for finding in found] == ["vlrun-hits 1.0", "vlrun-scores 1.0"]
    assert "clash: metric 'hits' is also offered by vlrun-scores 1.0" in found[0].what
    assert all("uninstall" in finding.remedy for finding in found)


def test_two_plugins_of_one_name_are_a_warning(install: Callable[..., None]) -> None:
    install("vlrun-hits", PLUGIN.format(factory="builtins:print"))
    install("hits", "")
    (finding,) = bad(check_plugins(create_plugins()))
    assert finding.level == "warning"
    assert finding.what == "two plugins are called 'hits'"
    assert finding.where == "hits 1.0 and vlrun-hits 1.0"


def test_a_plugin_for_another_core_is_an_error(install: Callable[..., None]) -> None:
    install("vlrun-old", "", requires="vlrun<0.1")
    (finding,) = bad(check_plugins(create_plugins()))
    assert "incompatible: it needs vlrun<0.1" in finding.what
    assert "pip install -U vlrun-old" in finding.remedy


def test_all_is_well_with_an_experiment_whose_files_are_there(world: Path, plugins: Plugins) -> None:
    found = findings_of(world, plugins, with_shared_memory(100 * MIB), Shape(1, 2), "train.workers=2")
    assert not bad(found)
    assert [finding.about for finding in found] == [
        "cpus",
        "data",
        "disk",
        "experiment",
        "shared memory",
        "disk",
    ]


def test_missing_files_are_errors_with_what_comes_next(world: Path, plugins: Plugins) -> None:
    (world / "data" / "val.jsonl").unlink()
    (finding,) = bad(findings_of(world, plugins, MACHINE, Shape(1, 0)))
    assert finding.level == "error"
    assert "val.jsonl" in finding.what
    assert finding.remedy == "runner data status toy.yaml"


def test_what_a_run_would_end_with_is_an_error(world: Path, plugins: Plugins) -> None:
    path = world / "data" / "toys.lmdb" / "data.mdb"
    path.write_bytes(path.read_bytes()[:5000])  # a copy that broke off
    (finding,) = bad(findings_of(world, plugins, MACHINE, Shape(1, 0)))
    assert (finding.about, finding.level) == ("experiment", "error")
    assert "truncated" in finding.what


def demands_of(world: Path, plugins: Plugins, *overrides: str, processes: int = 1, workers: int = 2) -> Demands:
    one = experiment(world, plugins, *overrides)
    return measure_demands(one, plugins, processes, workers, torch.device("cpu"))


def test_a_task_knows_its_training_data_before_the_first_batch(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("too few images to draw from")

    monkeypatch.setattr(toy.ToyTask, "start_training", refuse)
    (finding,) = bad(findings_of(world, plugins, MACHINE, Shape(1, 0)))
    assert (finding.about, finding.what) == ("experiment", "too few images to draw from")


def test_a_batch_is_as_large_as_the_records_of_the_store(world: Path, plugins: Plugins) -> None:
    few, whole = "train.evaluate_batch_size=1", "features.residency=workers"
    one = demands_of(world, plugins, few, whole)
    half = demands_of(world, plugins, few, whole, processes=2)
    evaluated = demands_of(world, plugins, "train.evaluate_batch_size=13", whole)
    features, boxes = np.ones((60, WIDTH), np.float16), np.tile(np.float32([0, 0, 5, 5]), (60, 1))
    large = [RegionFeatures(f"img{number}", features, boxes, 100, 100) for number in range(NUM_IMAGES)]
    write_store(world / "data" / "large.lmdb", large)
    many = demands_of(world, plugins, f"tasks.0.dataset.features={world / 'data' / 'large.lmdb'}", whole)
    assert one.batches["match"] > half.batches["match"] > 0
    assert evaluated.batches["match"] > one.batches["match"], "the largest counts"
    assert many.batches["match"] > 15 * one.batches["match"]
    assert one.checkpoints > 0
    only_scores = demands_of(world, plugins, "train.epochs=0", whole)
    assert only_scores.checkpoints == 0
    assert only_scores.batches["match"] > 0


@pytest.mark.parametrize(("residency", "workers"), [("host", 2), ("device", 0)])
def test_a_batch_whose_features_come_later_is_measured_without_them(
    world: Path, plugins: Plugins, residency: str, workers: int
) -> None:
    size = "train.evaluate_batch_size=6"
    whole = demands_of(world, plugins, size, "features.residency=workers", workers=0).batches["match"]
    outlined = demands_of(world, plugins, size, f"features.residency={residency}", workers=workers).batches["match"]
    pairs = 2 * experiment(world, plugins).train.batch_size  # each text with its image and with another one
    assert whole - outlined == pairs * image_features(0).features.nbytes


@pytest.mark.parametrize(
    ("processes", "workers", "free", "level"), [(1, 2, 60, "ok"), (2, 2, 60, "error"), (2, 0, 0, "ok")]
)
def test_batches_of_all_workers_of_all_processes_must_fit_into_shared_memory(
    processes: int, workers: int, free: int, level: str
) -> None:
    assert HELD_BY_A_WORKER == 3
    demands = Demands({"vqa": 10 * MIB, "rec": MIB}, 0)
    (finding,) = check_batches(with_shared_memory(free * MIB), Shape(processes, workers), demands)
    assert finding.level == level
    if level == "error":
        assert "4 loader workers can hold 3 batches of 10.0 MiB each ('vqa'), together 120 MiB" in finding.what
        assert finding.remedy.startswith("train.workers=1,")
        assert "--shm-size 151m" in finding.remedy


def test_too_little_room_for_checkpoints_and_a_store_on_a_network_are_found(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = replace(MACHINE, mounts=(Mount("/", "ext4", ""), Mount(str(world.resolve()), "nfs", "filer:/")))
    monkeypatch.setattr("vlrun.cli.doctor.experiment_checks.space_of", lambda path: Space(path, 100, 100))
    slow, full = bad(findings_of(world, plugins, machine, Shape(1, 0)))
    assert (slow.level, slow.about) == ("warning", "features")
    assert "features.stage=" in slow.remedy
    assert (full.level, full.about) == ("error", "disk")
    assert "checkpoints will take" in full.what
    assert bad(findings_of(world, plugins, machine, Shape(1, 0), f"features.stage={world}")) == [full]


def test_the_shape_of_a_run_is_what_the_run_would_take(world: Path, plugins: Plugins) -> None:
    machine = read_machine()
    assert shape_of(experiment(world, plugins, "train.workers=3"), machine, 2) == Shape(2, 3)
    if machine.torch is not None and not machine.torch.gpus:
        assert shape_of(experiment(world, plugins, "train.workers=null"), machine, None) == Shape(1, 0)


def test_more_processes_than_examples_of_a_step_are_what_the_run_would_end_with(world: Path, plugins: Plugins) -> None:
    (finding,) = bad(findings_of(world, plugins, MACHINE, Shape(8, 0)))
    assert finding.level == "error"
    assert "8 processes and 8 forward passes a step leave nothing to train on" in finding.what


def test_without_an_experiment_the_stores_under_the_data_root_are_looked_at(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(world / "data" / "features" / "coco", [image_features(0)])
    slow = Mount(str((world / "data").resolve()), "nfs4", "filer:/")
    monkeypatch.setattr("vlrun.cli.doctor.machine.read_machine", lambda: replace(MACHINE, mounts=(slow,)))
    monkeypatch.setenv("VLRUN_DATA", str(world / "data"))
    main(["doctor"])
    assert f"{world}/data/features/coco: it is on a network file system (nfs4 filer:/ at " in capsys.readouterr().out


def test_an_experiment_with_mistakes_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.yaml").write_text("backbone: {name: nobody}\n")
    assert main(["doctor", str(tmp_path / "wrong.yaml")]) == 7
    said = capsys.readouterr()
    assert "no backbone 'nobody' is installed" in said.out
    assert "not ok: experiment" in said.err
    assert main(["doctor", "--nproc", "0"]) == 2
