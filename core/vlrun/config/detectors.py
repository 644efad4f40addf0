"""The options that every detector has (this module imports no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from vlrun.config.base import Config


class DetectorConfig(Config):
    """Options that every detector has."""

    name: str
    weights: Path = Field(description="imported weights (.safetensors)")
    boxes: str = Field("36", description="regions of a picture: a number, or the fewest and the most, such as 10-100")
    device: str = Field("auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")

    @field_validator("boxes", mode="before")
    @classmethod
    def _boxes_are_a_range(cls, given: Any) -> str:
        text = str(given)
        ends = text.split("-")
        if len(ends) > 2 or not all(end.isdecimal() for end in ends) or not 0 < int(ends[0]) <= int(ends[-1]):
            raise ValueError("write a number of boxes, or the fewest and the most: 36, or 10-100")
        return text

    @property
    def fewest_boxes(self) -> int:
        """How many regions a picture has at least."""
        return int(self.boxes.split("-")[0])

    @property
    def most_boxes(self) -> int:
        """How many regions a picture has at most."""
        return int(self.boxes.split("-")[-1])
