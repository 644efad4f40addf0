"""What this plugin offers: the task ``vqa-distilled``."""

from __future__ import annotations

from vlrun import Entry, hookimpl


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task."""
    return [
        Entry(
            name="vqa-distilled",
            summary="Visual question answering that learns from another run (Hinton et al. 2015)",
            config="vlrun_distillation.config:DistilledVqaConfig",
            factory="vlrun_distillation.task:DistilledVqa",
            target="answers",
        )
    ]
