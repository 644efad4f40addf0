"""What this plugin registers: the task ``vqa``, the dataset ``vqav2``, its metric and the server's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import Builder, BuildReport, Entry, SubmissionFormat, hookimpl
from vlrun_vqa.config import VqaAccuracyConfig, VqaConfig, VqaV2Config
from vlrun_vqa.records import VqaQuestion
from vlrun_vqa.sources import OBTAIN, ROSITA_FILE
from vlrun_vqa.submission import submission_formats

if TYPE_CHECKING:
    from vlrun_vqa.dataset import VqaQuestions
    from vlrun_vqa.metric import VqaAccuracy
    from vlrun_vqa.task import VqaTask

TARGET = "answers"


def build_task(config: VqaConfig) -> VqaTask:
    from vlrun_vqa.task import VqaTask

    return VqaTask(config)


def build_metric(config: VqaAccuracyConfig) -> VqaAccuracy:
    from vlrun_vqa.metric import VqaAccuracy

    return VqaAccuracy(config)


def build_dataset(config: VqaV2Config, split: str) -> VqaQuestions:
    from vlrun_vqa.dataset import VqaQuestions

    return VqaQuestions(config, split)


def build_official(source: Path, output: Path) -> BuildReport:
    from vlrun_vqa.build_official import build_official

    return build_official(source, output)


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    from vlrun_vqa.build_published import build_lxmert

    return build_lxmert(folder, output)


def build_rosita(source: Path, output: Path) -> BuildReport:
    from vlrun_vqa.build_published import build_rosita

    return build_rosita(source, output)


BUILDERS = (
    Builder(
        "official",
        "folder with v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json of some parts (or .json.gz)",
        build_official,
    ),
    Builder(
        "lxmert",
        "folder with train.json, nominival.json, minival.json, test.json, published with LXMERT (soft scores only)",
        build_lxmert,
    ),
    Builder("rosita", f"{ROSITA_FILE}, published with ROSITA, or a folder with it", build_rosita),
)


@hookimpl
def vlrun_tasks() -> list[Entry[VqaTask]]:
    return [Entry("vqa", "Visual question answering: a question -> one of many answers", VqaConfig, build_task, TARGET)]


@hookimpl
def vlrun_datasets() -> list[Entry[VqaQuestions]]:
    return [
        Entry(
            "vqav2",
            "VQA v2 (Goyal et al. 2017): 1.1 million questions about COCO images, ten answers each",
            VqaV2Config,
            build_dataset,
            TARGET,
            VqaQuestion,
            BUILDERS,
            OBTAIN,
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry[VqaAccuracy]]:
    return [
        Entry(
            "vqa-accuracy",
            "Official VQA accuracy, by answer type and question type, with the bound that the vocabulary sets",
            VqaAccuracyConfig,
            build_metric,
        )
    ]


@hookimpl
def vlrun_submissions() -> list[SubmissionFormat]:
    return submission_formats()
