"""Makes throw-away distributions with entry points, as pip would leave them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest


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
