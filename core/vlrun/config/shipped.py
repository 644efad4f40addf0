"""The experiments that ship with vlrun, under the names that they have in the repository."""

from __future__ import annotations

from pathlib import Path

EXPERIMENTS = "experiments"
SHIPPED = Path(__file__).resolve().parent / EXPERIMENTS
"""In a checkout this is a link to the folder ``experiments``; a wheel holds the files."""


def experiment_files() -> dict[str, Path]:
    """Name to type and file of each experiment below ``experiments/`` here; if there is none, of those that ship."""
    for root in (Path(EXPERIMENTS), SHIPPED):
        if files := sorted(root.glob("**/[!.]*.yaml")):
            return {str(EXPERIMENTS / file.relative_to(root)): file for file in files}
    return {}


def find_experiment(path: Path) -> Path:
    """``path``, or if there is no such file, the experiment of that name, here or as shipped.

    A name is ``experiments/NAME.yaml``, ``NAME.yaml`` or ``NAME``.
    """
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return path
    name = path.relative_to(EXPERIMENTS) if path.parts[:1] == (EXPERIMENTS,) else path
    for root in (Path(EXPERIMENTS), SHIPPED):
        for file in (root / name, root / f"{name}.yaml"):
            if file.is_file():
                return file
    return path
