"""Options of the detectors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from vlrun import DetectorConfig


class BottomUpConfig(DetectorConfig):
    """Options of both pipelines."""

    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the convolutions; bfloat16 is faster where the hardware has it; features change by 0.3 to 1 %",
    )
    anchors: Literal["known", "any"] = Field(
        "known", description="known refuses weights with anchors that are neither Caffe's nor Hugging Face's"
    )
    regions_at_once: PositiveInt = Field(16, description="regions in the last stage at a time; bounds memory")
