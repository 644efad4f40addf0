"""A small configuration of zero-shot retrieval, and the task that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vlrun import DatasetConfig
from vlrun_zero_shot.config import ZeroShotConfig
from vlrun_zero_shot.task import ZeroShotTask


@pytest.fixture
def make_config() -> Callable[..., ZeroShotConfig]:
    def make(**options: Any) -> ZeroShotConfig:
        dataset = DatasetConfig(name="captions", annotations="annotations", features="features", evaluate=["test"])
        return ZeroShotConfig(**{"name": "zero_shot", "dataset": dataset, **options})

    return make


@pytest.fixture
def make_task(make_config: Callable[..., ZeroShotConfig]) -> Callable[..., ZeroShotTask]:
    return lambda **options: ZeroShotTask(make_config(**options))
