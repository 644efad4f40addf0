"""Fixtures shared by all tests: where the golden vectors and the real sample files lie."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of vectors made with the original systems; VLRUN_GOLDEN names another of the same layout."""
    return Path(os.environ.get("VLRUN_GOLDEN", ROOT / "tests" / "golden")).absolute()


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real sample files; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("VLRUN_SAMPLES", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real samples are not at {folder}; set VLRUN_SAMPLES")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start the most whole runs come first: else one worker is still at them when the others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
