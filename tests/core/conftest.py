"""Throw-away distributions with entry points, as pip would leave them, and the toy world on disk."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import toy_world as toy
from safetensors.torch import save_file
from torch import Tensor
from toy_runs import experiment
from toy_world import ToyTask

from vlrun import Example, Pair
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.run import run_experiment


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``install(distribution, module_source, requires=...)`` puts a plugin on sys.path, discoverable like any other."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    installed = []

    def install_plugin(distribution: str, source: str, version: str = "1.0", requires: str = "vlrun") -> None:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(dedent(source))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nRequires-Dist: {requires}\n"
        )
        info.joinpath("entry_points.txt").write_text(f"[vlrun]\n{distribution.removeprefix('vlrun-')} = {module}\n")
        installed.append(module)
        importlib.invalidate_caches()

    yield install_plugin
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    return create_plugins([*core, EntryPoint("toy", "toy_world", "vlrun")])


@pytest.fixture
def world(tmp_path: Path) -> Path:
    toy.write_toy_store(tmp_path / "data" / "toys.lmdb")
    for split in toy.SIZES:
        (tmp_path / "data" / f"{split}.jsonl").touch()
    (tmp_path / "toy.yaml").write_text(toy.EXPERIMENT)
    return tmp_path


@pytest.fixture
def fragile(world: Path) -> dict[str, str]:
    """That of a shell in which the fragile world is installed."""
    info = world / "site" / "fragile-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text("[vlrun]\nfragile = fragile_world\n")
    path = os.pathsep.join(
        [*filter(None, [os.environ.get("PYTHONPATH")]), str(info.parent), str(Path(__file__).parent)]
    )
    log, marker = world / "writes.log", world / "killed"
    changes = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "FRAGILE_LOG": str(log), "MARKER": str(marker)}
    return {**os.environ, **changes}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """``save(tensors, **metadata)`` writes imported weights."""

    def write(tensors: dict[str, Tensor], **metadata: Any) -> Path:
        save_file(tensors, tmp_path / "toy.safetensors", {"vlrun": json.dumps(metadata)})
        return tmp_path / "toy.safetensors"

    return write


@pytest.fixture
def trained(world: Path, plugins: Plugins) -> Path:
    """The folder of a finished run; its annotations are gone."""
    folder = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins).folder
    for split in toy.SIZES:
        (world / "data" / f"{split}.jsonl").unlink()
    return folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy task without its random image, so that what a question says depends on nothing else."""

    def pairs(task: ToyTask, example: Example[int], rng: object) -> list[Pair]:
        return [Pair(example.text, image) for image in (example.image_ids[0], example.image_ids[-1])]

    monkeypatch.setattr(ToyTask, "pairs", pairs)


@pytest.fixture
def installed(trained: Path, install: Callable[..., None]) -> Path:
    """The trained run, with the toys as an installed plugin, as verbs need it."""
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    return trained
