"""What this plugin registers: the task ``pretrain`` and the dataset ``coco-captions``."""

from __future__ import annotations

from vlrun import Builder, Download, Entry, hookimpl
from vlrun_pretraining.downloads import DOWNLOADS
from vlrun_pretraining.sources import OBTAIN, OFFICIAL_FILES

TARGET = "caption"


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Pre-training."""
    return [
        Entry(
            name="pretrain",
            summary="Small-scale pre-training on captions: masked words, masked regions, image-text matching",
            config="vlrun_pretraining.config:PretrainConfig",
            factory="vlrun_pretraining.task:PretrainTask",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """COCO's captions."""
    names = ", ".join(file.name for file in OFFICIAL_FILES.values())
    return [
        Entry(
            name="coco-captions",
            summary="COCO captions (Chen et al. 2015) with the splits of 2014: 123,287 images, five or "
            "more captions each",
            config="vlrun_pretraining.config:CocoCaptionsConfig",
            factory="vlrun_pretraining.dataset:CocoCaptions",
            target=TARGET,
            record="vlrun_pretraining.records:CocoCaption",
            builders=(
                Builder(
                    source="official",
                    summary=f"folder with {names}",
                    function="vlrun_pretraining.build:build_official",
                ),
            ),
            obtain=OBTAIN,
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
