"""What this plugin offers, with its options. Light: torch is imported when something is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveInt

from vlrun import BackboneConfig, DatasetConfig, DemoFiles, Entry, hookimpl

if TYPE_CHECKING:
    from vlrun_own.backbone import BagOfWords
    from vlrun_own.dataset import ShortExpressions


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


def build_backbone(config: BagOfWordsConfig) -> BagOfWords:
    from vlrun_own.backbone import BagOfWords

    return BagOfWords(config.hidden_size, config.region_feature_size)


def build_dataset(config: ShortExpressionsConfig, split: str) -> ShortExpressions:
    from vlrun_own.dataset import ShortExpressions

    return ShortExpressions(config.split_file(split), split, config.max_words)


@hookimpl
def vlrun_backbones() -> list[Entry[BagOfWords]]:
    return [Entry("bag-of-words", "Words in no order, multiplied with each region", BagOfWordsConfig, build_backbone)]


@hookimpl
def vlrun_datasets() -> list[Entry[ShortExpressions]]:
    summary = "RefCOCO+ expressions of a few words"
    return [Entry("short-refcoco+", summary, ShortExpressionsConfig, build_dataset, target="referent")]
