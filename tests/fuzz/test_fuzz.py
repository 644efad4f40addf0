"""Readers of foreign files raise the project's own errors alone, whatever they hold. `make fuzz` is the long form."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from damage import damaged
from feature_files import Apart
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from readers import READERS, Reader

from vlrun.errors import RunnerError

FEW = 20


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    for reader in READERS:
        if isinstance(reader.read, Apart):
            reader.read.close()


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_files_that_are_right_are_read(reader: Reader, tmp_path: Path) -> None:
    """Else the damage would never get far."""
    (tmp_path / "seeds").mkdir()
    for number, seed in enumerate(reader.seeds(tmp_path / "seeds")):
        (tmp_path / str(number)).mkdir()
        reader.read(seed, tmp_path / str(number))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_damaged_file_is_refused_with_our_own_errors(reader: Reader, tmp_path: Path) -> None:
    seeds = reader.seeds(tmp_path)

    @settings(max_examples=FEW, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True))
    def read(rng: Random) -> None:
        content = damaged(rng, seeds)
        note(f"content = {content!r}")
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        try:
            reader.read(content, folder)
        except RunnerError as error:
            assert str(error)
            str(error).encode()
        finally:
            shutil.rmtree(folder)

    read()
