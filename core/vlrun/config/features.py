"""The ``features:`` section of an experiment file: where region features are while a run reads them."""

from __future__ import annotations

from pydantic import Field

from vlrun.config.base import Config


class FeaturesConfig(Config):
    """Depends on the machine and changes no number, so it may change when a run is resumed."""

    stage: str | None = Field(
        None,
        description="folder on a disk of each machine, such as /local/scratch or $TMPDIR, to which stores are copied "
        "first, once per machine, and kept (VLRUN_STAGE names it for all experiments); null: read where they are",
    )
