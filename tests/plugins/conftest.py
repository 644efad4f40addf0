"""The demo data of every plugin, written once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from vlrun.plugins.manager import create_plugins


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``demo_files(dataset)``: the folder of its official files, about all images; to be read alone."""
    plugins = create_plugins()

    @cache
    def written(dataset: str) -> Path:
        source = plugins.demo_sources()[dataset]
        folder = tmp_path_factory.mktemp(dataset)
        source.write(folder, source.images_of(plugins.demo_data()[source.provider].make_provider()))
        return folder

    return written
