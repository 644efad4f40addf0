"""Options of the demo's detector."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vlrun import DetectorConfig

WEIGHTS = Path(__file__).with_name("detector.safetensors")


class DemoDetectorConfig(DetectorConfig):
    """As of every detector; its weights come with the plugin."""

    weights: Path = Field(
        Path(WEIGHTS.name), description="weights (.safetensors); by default those in the folder of the plugin"
    )
    boxes: str = Field("12", description="regions of a picture: a number, or the fewest and the most, such as 5-12")
    device: Literal["auto", "cpu"] = Field("auto", description="the network is too small for a GPU to help")

    @property
    def weights_file(self) -> Path:
        """Where the weights are."""
        return self.weights if "weights" in self.model_fields_set else WEIGHTS
