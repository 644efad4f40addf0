"""A demo needs the plugins of its experiment, and no other: the rest is neither there nor missed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vlrun import PluginError

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys
from dataclasses import replace
from importlib.metadata import entry_points

from vlrun.cli import main
from vlrun.plugins import manager

installed, *arguments = sys.argv[1:]
installed = installed.split(",")


class Absent:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package.startswith("vlrun_") and package not in installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
points = [point for point in entry_points(group="vlrun") if point.module.partition(".")[0] in ("vlrun", *installed)]
manager.entry_points = lambda group: points
if "vlrun_demo" in installed:
    from vlrun_demo import world

    world._RUNS["vqa"] = tuple(replace(run, size=8) for run in world._RUNS["vqa"])
sys.exit(main(arguments))
"""


def runner_with(plugins: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``runner`` where only some plugins are installed."""
    environment = {**os.environ, "VLRUN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, plugins, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_demo_of_vqa_needs_vqa_and_the_world(tmp_path: Path) -> None:
    options = ("train.epochs=1", "train.workers=0", "reporters=[{name: jsonl}]", "built_in_reporters=false")
    experiment = str(ROOT / "experiments" / "rosita_vqa.yaml")
    done = runner_with("vlrun_demo,vlrun_rosita,vlrun_vqa", tmp_path, "run", experiment, "--demo", *options)

    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/rosita_vqa/*/predictions*"))


def test_without_the_world_a_plugin_works_and_says_what_its_demo_lacks(tmp_path: Path) -> None:
    listed = runner_with("vlrun_rosita,vlrun_vqa", tmp_path, "list-plugins", "--check")
    experiment = str(ROOT / "experiments" / "rosita_vqa.yaml")
    demo = runner_with("vlrun_rosita,vlrun_vqa", tmp_path, "run", experiment, "--demo")

    assert listed.returncode == 0, listed.stdout
    assert demo.returncode == PluginError.exit_status
    assert "demo data of vqav2: no demo data 'world' is installed" in demo.stderr
