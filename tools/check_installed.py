"""Checks an environment into which wheels of vlrun and its plugins were installed, from a folder outside the checkout.

Nothing comes from the repository; the metadata are complete; all that the plugins name is there; a demo of a shipped
experiment runs. `make wheels` calls it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, distribution, entry_points
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

import vlrun
from vlrun.testing import check_plugin

DEMO = ("run", "rosita_refcoco+", "--demo", "train.epochs=1", "train.workers=0", "tasks.0.dataset.limit=32")


def check_metadata(wheel: Distribution) -> None:
    """Asserts a licence, a description, the lowest Python, and bounds on both sides for other parts of vlrun."""
    metadata = wheel.metadata
    name = metadata["Name"]
    assert metadata["License-Expression"] == "Apache-2.0", name
    assert metadata["Summary"], name
    assert metadata["Requires-Python"], name
    assert len(metadata.get_payload().splitlines()) > 5, f"{name}: no README"
    for line in wheel.requires or ():
        needed = Requirement(line)
        if needed.name.startswith("vlrun-") or (needed.name == "vlrun" != name):
            assert {one.operator for one in needed.specifier} == {">=", "<"}, f"{name}: {line}"
            assert Version(distribution(needed.name).version) in needed.specifier, f"{name}: {line}"


def main() -> None:
    """Raises AssertionError or CalledProcessError at the first thing that is wrong."""
    environment = Path(sys.prefix).resolve()
    assert Path(vlrun.__file__).resolve().is_relative_to(environment), vlrun.__file__
    points = entry_points(group="vlrun")
    wheels = {point.dist.name: point.dist for point in points if point.dist is not None}
    assert len(wheels) == int(sys.argv[1]), f"{len(wheels)} of {sys.argv[1]} wheels are installed: {', '.join(wheels)}"
    for wheel in wheels.values():
        check_metadata(wheel)
    for point in points:
        if point.dist is not None and point.dist.name != "vlrun":
            check_plugin(point.module)
    runner = Path(sys.executable).with_name("runner")
    with tempfile.TemporaryDirectory() as folder:
        own = {**os.environ, "VLRUN_CACHE": f"{folder}/cache"}
        for command in (("list-plugins", "--check"), ("list", "experiments"), DEMO):
            subprocess.run([runner, *command], cwd=folder, env=own, check=True)
        assert list(Path(folder).glob("runs/rosita_refcoco+/*/report.html")), "the demo left no report"


if __name__ == "__main__":
    main()
