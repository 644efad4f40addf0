"""What this plugin registers: the task ``gqa``, its dataset, its metric and the files that its server takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import Builder, BuildReport, Entry, SubmissionFormat, hookimpl
from vlrun_gqa.config import GqaAccuracyConfig, GqaConfig, GqaDatasetConfig
from vlrun_gqa.records import GqaQuestion
from vlrun_gqa.sources import OFFICIAL_OBTAIN

if TYPE_CHECKING:
    from vlrun_gqa.dataset import GqaQuestions
    from vlrun_gqa.metric import GqaAccuracy
    from vlrun_gqa.task import GqaTask

TARGET = "gqa-answer"


def build_task(config: GqaConfig) -> GqaTask:
    from vlrun_gqa.task import GqaTask

    return GqaTask(config)


def build_dataset(config: GqaDatasetConfig, split: str) -> GqaQuestions:
    from vlrun_gqa.dataset import GqaQuestions

    return GqaQuestions(config, split)


def build_metric(_: GqaAccuracyConfig) -> GqaAccuracy:
    from vlrun_gqa.metric import GqaAccuracy

    return GqaAccuracy()


def build_official(folder: Path, output: Path) -> BuildReport:
    from vlrun_gqa.build import build_official

    return build_official(folder, output)


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    from vlrun_gqa.build import build_lxmert

    return build_lxmert(folder, output)


@hookimpl
def vlrun_tasks() -> list[Entry[GqaTask]]:
    return [Entry("gqa", "Answer a compositional question about an image", GqaConfig, build_task, TARGET)]


@hookimpl
def vlrun_datasets() -> list[Entry[GqaQuestions]]:
    return [
        Entry(
            "gqa",
            "GQA (Hudson and Manning 2019): 1.2 million balanced questions, 22 million in all",
            GqaDatasetConfig,
            build_dataset,
            TARGET,
            GqaQuestion,
            (
                Builder(
                    "official",
                    "folder with some of {train,val,testdev,...}_{balanced,all}_questions.json, and val_choices.json",
                    build_official,
                ),
                Builder(
                    "lxmert",
                    "folder with some of LXMERT's train, valid, testdev, submit and trainval_label2ans .json",
                    build_lxmert,
                ),
            ),
            OFFICIAL_OBTAIN,
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry[GqaAccuracy]]:
    return [
        Entry(
            "gqa-accuracy",
            "Accuracy, consistency, validity, plausibility and distribution of GQA's evaluator",
            GqaAccuracyConfig,
            build_metric,
        )
    ]


@hookimpl
def vlrun_submissions() -> list[SubmissionFormat]:
    from vlrun_gqa.submission import FORMATS

    return list(FORMATS)
