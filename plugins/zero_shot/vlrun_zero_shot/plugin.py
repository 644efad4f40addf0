"""What this plugin registers: the task ``zero_shot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlrun import Entry, hookimpl
from vlrun_zero_shot.config import ZeroShotConfig

if TYPE_CHECKING:
    from vlrun_zero_shot.task import ZeroShotTask


def build_task(config: ZeroShotConfig) -> ZeroShotTask:
    from vlrun_zero_shot.task import ZeroShotTask

    return ZeroShotTask(config)


@hookimpl
def vlrun_tasks() -> list[Entry[ZeroShotTask]]:
    summary = "Image-text retrieval with the matching head of pre-training, without training"
    return [Entry("zero_shot", summary, ZeroShotConfig, build_task, "caption")]
