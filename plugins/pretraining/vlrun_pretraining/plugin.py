"""What this plugin registers: the task ``pretrain`` and the dataset ``coco-captions``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import Builder, BuildReport, Entry, hookimpl
from vlrun_pretraining.config import CocoCaptionsConfig, PretrainConfig
from vlrun_pretraining.records import CocoCaption
from vlrun_pretraining.sources import OBTAIN, OFFICIAL_FILES

if TYPE_CHECKING:
    from vlrun_pretraining.dataset import CocoCaptions
    from vlrun_pretraining.task import PretrainTask

TARGET = "caption"


def build_task(config: PretrainConfig) -> PretrainTask:
    from vlrun_pretraining.task import PretrainTask

    return PretrainTask(config)


def build_dataset(config: CocoCaptionsConfig, split: str) -> CocoCaptions:
    from vlrun_pretraining.dataset import CocoCaptions

    return CocoCaptions(config, split)


def build_official(folder: Path, output: Path) -> BuildReport:
    from vlrun_pretraining import build

    return build.build_official(folder, output)


@hookimpl
def vlrun_tasks() -> list[Entry[PretrainTask]]:
    return [
        Entry(
            "pretrain",
            "Small-scale pre-training on captions: masked words, masked regions, image-text matching",
            PretrainConfig,
            build_task,
            TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry[CocoCaptions]]:
    names = ", ".join(file.name for file in OFFICIAL_FILES.values())
    return [
        Entry(
            "coco-captions",
            "COCO captions (Chen et al. 2015) with the splits of 2014: 123,287 images, five or more captions each",
            CocoCaptionsConfig,
            build_dataset,
            TARGET,
            CocoCaption,
            (Builder("official", f"folder with {names}", build_official),),
            OBTAIN,
        )
    ]
