"""Prints the lowest declared version of every direct dependency, as pins for ``pip install``.

Of the core and of all plugins, with their extras and the build system; `make lowest` installs and tests them. A version
that is declared is a version that was run: so one package has one lower bound wherever it is named. What has no lower
bound, such as the linters, is left to constraints.txt.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def requirements(file: Path) -> Iterator[Requirement]:
    """All requirements of one pyproject.toml: for building, for use, and of each extra."""
    content = tomllib.loads(file.read_text())
    project = content["project"]
    lines = [*content["build-system"]["requires"], *project.get("dependencies", ())]
    for extra in project.get("optional-dependencies", {}).values():
        lines += extra
    yield from map(Requirement, lines)


def lowest(files: Iterable[Path]) -> dict[str, str]:
    """Name and lowest version of each package that ``files`` require, but for vlrun's own.

    Raises:
        ValueError: two files declare different lower bounds of one package.
    """
    bounds: dict[str, dict[str, Path]] = {}
    for file in files:
        for requirement in requirements(file):
            name = canonicalize_name(requirement.name)
            if name == "vlrun" or name.startswith("vlrun-"):
                continue
            for one in requirement.specifier:
                if one.operator in (">=", "=="):
                    bounds.setdefault(name, {}).setdefault(one.version, file)
    for name, versions in bounds.items():
        if len(versions) > 1:
            named = ", ".join(f"{version} in {file}" for version, file in versions.items())
            raise ValueError(f"{name} has several lower bounds: {named}; declare the highest everywhere")
    return {name: next(iter(versions)) for name, versions in sorted(bounds.items())}


if __name__ == "__main__":
    pins = lowest([ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))])
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in pins.items())
