"""What this plugin offers: the task ``vqa-contrastive``."""

from __future__ import annotations

from vlrun import Entry, hookimpl


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task."""
    return [
        Entry(
            name="vqa-contrastive",
            summary="Visual question answering beside contrastive learning of pairs",
            config="vlrun_contrastive.config:ContrastiveVqaConfig",
            factory="vlrun_contrastive.task:ContrastiveVqa",
            target="answers",
        )
    ]
