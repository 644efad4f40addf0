"""What this plugin registers: the task and the dataset ``nlvr2``, its metric, and the files its scorer takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import Builder, BuildReport, Entry, SubmissionFormat, SubmissionRows, hookimpl
from vlrun_nlvr2.config import Nlvr2AccuracyConfig, Nlvr2Config, Nlvr2TaskConfig
from vlrun_nlvr2.records import ImagePairStatement
from vlrun_nlvr2.sources import LXMERT_FILES, OBTAIN

if TYPE_CHECKING:
    from vlrun_nlvr2.dataset import Statements
    from vlrun_nlvr2.metric import Nlvr2Accuracy
    from vlrun_nlvr2.task import Nlvr2Task

TARGET = "statement"
SUBMISSION_SPLITS = {
    "dev": "development set",
    "test1": "test-P, the public test set",
    "test2": "test-U, unreleased until 2022",
}


def build_task(config: Nlvr2TaskConfig) -> Nlvr2Task:
    from vlrun_nlvr2.task import Nlvr2Task

    return Nlvr2Task(config)


def build_dataset(config: Nlvr2Config, split: str) -> Statements:
    from vlrun_nlvr2.dataset import Statements

    return Statements(config, split)


def build_metric(config: Nlvr2AccuracyConfig) -> Nlvr2Accuracy:
    from vlrun_nlvr2.metric import Nlvr2Accuracy

    return Nlvr2Accuracy(config)


def build_official(folder: Path, output: Path) -> BuildReport:
    from vlrun_nlvr2 import build

    return build.build_official(folder, output)


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    from vlrun_nlvr2 import build

    return build.build_lxmert(folder, output)


def read_submission(path: Path) -> SubmissionRows:
    from vlrun_nlvr2 import submission

    return submission.read_submission(path)


def official_ids(path: Path) -> list[str]:
    from vlrun_nlvr2 import source_files

    return source_files.read_identifiers(path)


@hookimpl
def vlrun_tasks() -> list[Entry[Nlvr2Task]]:
    return [
        Entry("nlvr2", "Is a statement about two images true? (Suhr et al. 2019)", Nlvr2TaskConfig, build_task, TARGET)
    ]


@hookimpl
def vlrun_datasets() -> list[Entry[Statements]]:
    return [
        Entry(
            "nlvr2",
            "NLVR2 (Suhr et al. 2019): 107,292 statements about pairs of photographs",
            Nlvr2Config,
            build_dataset,
            TARGET,
            ImagePairStatement,
            (
                Builder(
                    "official",
                    "folder with train.json, dev.json, test1.json, test2.json (nlvr2/data of the authors' repository)",
                    build_official,
                ),
                Builder("lxmert", f"folder with {', '.join(LXMERT_FILES.values())} as LXMERT has them", build_lxmert),
            ),
            OBTAIN,
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry[Nlvr2Accuracy]]:
    return [
        Entry(
            "nlvr2-accuracy",
            "Share of right statements, and of sentences right for all their image pairs, in percent",
            Nlvr2AccuracyConfig,
            build_metric,
        )
    ]


@hookimpl
def vlrun_submissions() -> list[SubmissionFormat]:
    return [
        SubmissionFormat(
            f"nlvr2-{split}",
            "nlvr2",
            (split,),
            f"lines 'identifier,True' or 'identifier,False' for {what}",
            read_submission,
            official_ids,
        )
        for split, what in SUBMISSION_SPLITS.items()
    ]
