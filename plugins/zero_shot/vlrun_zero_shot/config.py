"""The options that an experiment file may set for zero-shot retrieval (no torch here)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from vlrun_retrieval.config import MatchingConfig


class ZeroShotConfig(MatchingConfig):
    """Image-text retrieval with the matching head of pre-training."""

    speed_options: ClassVar[tuple[str, ...]] = (*MatchingConfig.speed_options, "check_pairs")

    check_pairs: PositiveInt = Field(
        64,
        description="texts that are scored with their own and with another image before all pairs are; clearly more "
        "than half of them must match their own better",
    )

    prompt: str = Field("", description="words before each text, as CLIP's 'a photo of'; empty: the text alone")

    def demo_overrides(self) -> dict[str, Any]:
        """More texts: what a tiny model has learned in minutes shows in a larger sample only. And no prompt, which it
        never met.
        """
        return {**super().demo_overrides(), "check_pairs": 256, "prompt": ""}
