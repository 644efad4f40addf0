"""The options that an experiment file may set (no torch here)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeFloat, PositiveFloat

from vlrun import RequiredFile
from vlrun_vqa.config import VqaConfig


class DistilledVqaConfig(VqaConfig):
    """Those of the task ``vqa``, and whom it learns from."""

    teacher: Path = Field(description="folder of a finished run, whose best checkpoint teaches")
    imitation: NonNegativeFloat = Field(1.0, description="factor on the loss against the teacher")
    temperature: PositiveFloat = Field(2.0, description="by which logits are divided before they are compared")

    def required_files(self) -> list[RequiredFile]:
        """Also the teacher's weights, whose hash ``data.json`` of a run then has."""
        weights = self.teacher / "checkpoints" / "best" / "model.safetensors"
        return [*super().required_files(), RequiredFile(weights, "the teacher", "train it first, or name another run")]
