"""Declared versions are those that `make lowest` runs, and experiments are found where the repository is not."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from vlrun import ConfigError, load_experiment
from vlrun.cli import main
from vlrun.config.shipped import SHIPPED, find_experiment
from vlrun.plugins.manager import create_plugins

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lowest", ROOT / "tools" / "lowest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_library_has_one_lower_bound(tool: ModuleType) -> None:
    pins = tool.lowest(PROJECTS)
    assert {"torch", "numpy", "werkzeug", "hatchling", "playwright"} <= set(pins)
    for file in PROJECTS:
        for line in tomllib.loads(file.read_text())["project"]["dependencies"]:
            name = re.split(r"[<>=;\[]", line)[0]
            assert name.startswith("vlrun") or name.replace("_", "-").lower() in pins, f"{file}: {line}"


def test_two_lower_bounds_of_one_library_are_refused(tool: ModuleType, tmp_path: Path) -> None:
    files = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for file, version in zip(files, ("10", "10.3"), strict=True):
        file.write_text(
            f'[build-system]\nrequires = []\n[project]\ndependencies = ["vlrun>=0.3", "Some_Library>={version},<11"]\n'
        )
    assert tool.lowest(files[:1]) == {"some-library": "10"}
    with pytest.raises(ValueError, match=r"some-library has several lower bounds: 10 in .*, 10\.3 in "):
        tool.lowest(files)


def test_the_lowest_versions_run_one_experiment_of_each_task() -> None:
    chosen = re.search(r"LOWEST_EXPERIMENTS := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text())
    assert chosen is not None
    tasks = [
        yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())["tasks"][0]["name"]
        for name in chosen[1].replace("\\", " ").split()
    ]
    assert sorted(tasks) == sorted(create_plugins().names("task"))


def test_the_experiments_that_ship_are_those_of_the_repository() -> None:
    assert SHIPPED.resolve() == ROOT / "experiments"


@pytest.mark.parametrize("name", ["rosita_refcoco+", "rosita_refcoco+.yaml", "experiments/rosita_refcoco+.yaml"])
def test_a_shipped_experiment_is_found_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(name)
    assert (experiment.name, experiment.data_root) == ("rosita_refcoco+", tmp_path / "data")
    (tmp_path / "experiments").mkdir()
    own = Path("experiments", "rosita_refcoco+.yaml")
    own.write_text("")
    assert find_experiment(Path(name)) == own


def test_only_a_plain_name_means_a_shipped_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../experiments/rosita_refcoco+.yaml", str(tmp_path / "rosita_refcoco+.yaml"), "rosita_refcocoo"):
        with pytest.raises(ConfigError, match="cannot read the experiment file"):
            load_experiment(name)


def test_where_there_are_no_experiments_those_that_ship_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["list", "experiments"]) == 0
    said = capsys.readouterr()
    assert "experiments/multitask/rosita_vqa+refcoco+.yaml" in said.out
    assert str(SHIPPED) in said.err
