"""What this plugin offers. Light: options and code are named here, and imported when they are used."""

from __future__ import annotations

from vlrun import Entry, hookimpl


@hookimpl
def vlrun_backbones() -> list[Entry]:
    """Registers the backbone."""
    return [
        Entry(
            name="bag-of-words",
            summary="Words in no order, multiplied with each region",
            config="vlrun_own.config:BagOfWordsConfig",
            factory="vlrun_own.backbone:BagOfWords.from_config",
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """Registers the dataset."""
    return [
        Entry(
            name="short-refcoco+",
            summary="RefCOCO+ expressions of a few words",
            config="vlrun_own.config:ShortExpressionsConfig",
            factory="vlrun_own.dataset:ShortExpressions",
            target="referent",
        )
    ]
