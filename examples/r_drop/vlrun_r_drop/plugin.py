"""What this plugin offers: the task ``vqa-r-drop``."""

from __future__ import annotations

from vlrun import Entry, hookimpl


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task."""
    return [
        Entry(
            name="vqa-r-drop",
            summary="Visual question answering with R-Drop (Wu et al. 2021)",
            config="vlrun_r_drop.config:RDropVqaConfig",
            factory="vlrun_r_drop.task:RDropVqa",
            target="answers",
        )
    ]
