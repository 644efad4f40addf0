"""The options that an experiment file may set (no torch here)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from vlrun_vqa.config import VqaConfig


class ContrastiveVqaConfig(VqaConfig):
    """Those of the task ``vqa``, and of the contrastive loss."""

    contrast: NonNegativeFloat = Field(0.1, description="factor on the contrastive loss")
    width: PositiveInt = Field(64, description="numbers of an embedding")
    temperature: PositiveFloat = Field(0.07, description="of the similarities, at the start; it is learned")
    queue: NonNegativeInt = Field(0, description="embeddings of earlier steps that are negatives, too")
    momentum: float = Field(
        0.0, ge=0, lt=1, description="the other embedding is that of a copy which keeps so much of itself; 0: no copy"
    )
