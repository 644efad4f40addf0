"""The options of the backbone (no torch here)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from vlrun import SingleStreamConfig


class UniterConfig(SingleStreamConfig):
    """A single-stream encoder over [text tokens ; image regions]; the authors' vocabulary is bert-base-cased."""

    weights_file = "uniter-base.pt"
    weights_page = "https://github.com/ChenRocks/UNITER"

    num_regions: PositiveInt = Field(100, description="regions per image; fewer are padded, more are cut off")
