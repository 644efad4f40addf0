"""The options that an experiment file may set (no torch here)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from vlrun_vqa.config import VqaConfig


class RDropVqaConfig(VqaConfig):
    """Those of the task ``vqa``, and how much two passes have to agree."""

    agreement: NonNegativeFloat = Field(0.5, description="factor on the divergence of two passes with other dropout")
