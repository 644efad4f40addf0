"""What this plugin registers: the task ``zero_shot``."""

from __future__ import annotations

from vlrun import Entry, hookimpl


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Zero-shot retrieval."""
    return [
        Entry(
            name="zero_shot",
            summary="Image-text retrieval with the matching head of pre-training, without training",
            config="vlrun_zero_shot.config:ZeroShotConfig",
            factory="vlrun_zero_shot.task:ZeroShotTask",
            target="caption",
        )
    ]
