"""The ``published:`` section of an experiment file: numbers of a paper, and what they hold for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import Field, PositiveInt

from vlrun.config.base import Config
from vlrun.reporting.options import flat_options, is_recipe


class PublishedResult(Config):
    """One published number, to be shown beside ours."""

    task: str
    split: str
    name: str = Field(description="name of the score, as our metric calls it")
    value: float
    examples: PositiveInt | None = Field(None, description="examples behind it; null: not compared")
    protocol: dict[str, Any] = Field({}, description="what the protocol of a score must say besides that of all")


class Published(Config):
    """Published results of this experiment, where they are from, and what they hold for.

    A run that differs in any of it is shown as not comparable, with the reasons.
    """

    source: str
    recipe: dict[str, Any] = Field(
        {},
        description="option: the value that the numbers were made with, nested or with dots. A run with another value "
        "of these, or of any option that was changed from outside the file, is not comparable; nor is any without this",
    )
    weights: list[str] = Field([], description="layouts of which the imported weights must be; empty: not compared")
    features: list[str] = Field([], description="extractors that may have made the features; empty: not compared")
    training_examples: PositiveInt | None = Field(None, description="how many were trained on; null: not compared")
    protocol: dict[str, Any] = Field({}, description="what the protocol of each score must say, such as its IoU rule")
    results: list[PublishedResult]

    def held_against(self, before: Mapping[str, Any], now: Mapping[str, Any], speed: Collection[str]) -> Published:
        """The same with a recipe that also names each option that was changed from outside the file.

        Args:
            before, now: all options, flat: as the file has them, and as they are used.
            speed: those that change no number.
        """
        changed = {
            key: before.get(key)
            for key in {**before, **now}
            if now.get(key) != before.get(key) and is_recipe(key) and key not in speed
        }
        return self.model_copy(update={"recipe": {**changed, **flat_options(self.recipe)}})
