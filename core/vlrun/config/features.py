"""The ``features:`` section of an experiment file: where region features are while a run works."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlrun.config.base import Config


class FeaturesConfig(Config):
    """Depends on the machine and changes no number, so it may change when a run is resumed."""

    residency: Literal["auto", "device", "host", "workers"] = Field(
        "auto",
        description="device: in the memory of each accelerator; host: in the memory of the machine, once for all of "
        "its processes, each of which reads its own batches there; workers: loader workers read each batch from the "
        "disk; auto: the first of these that has room",
    )
    stage: str | None = Field(
        None,
        description="folder on a disk of each machine, such as /local/scratch or $TMPDIR, to which stores are copied "
        "first, once per machine, and kept (VLRUN_STAGE names it for all experiments); null: read where they are",
    )
