"""The options that an experiment file may set (no torch here)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from vlrun import BackboneConfig, DatasetConfig, DemoFiles


class BagOfWordsConfig(BackboneConfig):
    """Sizes of the backbone."""

    hidden_size: PositiveInt = 128
    region_feature_size: PositiveInt = 2048

    @classmethod
    def demo_overrides(cls, files: DemoFiles) -> dict[str, Any]:
        return {"weights": None, "region_feature_size": files.region_feature_size}


class ShortExpressionsConfig(DatasetConfig):
    """The annotation files of RefCOCO+, read another way."""

    demo_dataset: ClassVar[str | None] = "refcoco+"
    max_words: PositiveInt = Field(4, description="longer expressions are left out")
