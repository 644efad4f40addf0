"""What this plugin registers: the task ``rec``, its three datasets and its metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import Builder, BuildReport, Entry, hookimpl
from vlrun_rec.config import GroundingAccuracyConfig, RecConfig, RefCocoConfig, RefCocogConfig
from vlrun_rec.records import ReferringExpression
from vlrun_rec.sources import OFFICIAL_SOURCES, OfficialSource, official_source, rosita_file

if TYPE_CHECKING:
    from vlrun_rec.dataset import ReferringExpressions
    from vlrun_rec.metric import GroundingAccuracy
    from vlrun_rec.task import RecTask

TARGET = "referent"


def build_task(config: RecConfig) -> RecTask:
    from vlrun_rec.task import RecTask

    return RecTask(config)


def build_metric(config: GroundingAccuracyConfig) -> GroundingAccuracy:
    from vlrun_rec.metric import GroundingAccuracy

    return GroundingAccuracy(config)


def build_refcoco(config: RefCocoConfig, split: str) -> ReferringExpressions:
    from vlrun_rec.dataset import ReferringExpressions

    return ReferringExpressions(config, split, split_by="unc")


def build_refcocog(config: RefCocogConfig, split: str) -> ReferringExpressions:
    from vlrun_rec.dataset import ReferringExpressions

    return ReferringExpressions(config, split, split_by=config.split_by)


def official_builder(source: OfficialSource) -> Builder:
    def build(folder: Path, output: Path) -> BuildReport:
        from vlrun_rec.build import build_official

        return build_official(source, folder, output)

    return Builder(source.name, f"folder with instances.json and {source.refs_file}, unpacked {source.archive}", build)


def rosita_builder(dataset: str, split_by: str) -> Builder:
    def build(path: Path, output: Path) -> BuildReport:
        from vlrun_rec.build import build_rosita

        return build_rosita(dataset, split_by, path, output)

    return Builder("rosita", f"{rosita_file(dataset)}, published with ROSITA, or a folder with it", build)


def builders(dataset: str, split_by: str) -> tuple[Builder, ...]:
    """``split_by`` says who made the splits that ROSITA used."""
    official = [official_builder(source) for source in OFFICIAL_SOURCES if source.dataset == dataset]
    return (*official, rosita_builder(dataset, split_by))


@hookimpl
def vlrun_tasks() -> list[Entry[RecTask]]:
    return [Entry("rec", "Referring expression comprehension: a phrase -> its box", RecConfig, build_task, TARGET)]


@hookimpl
def vlrun_datasets() -> list[Entry[ReferringExpressions]]:
    return [
        Entry(
            "refcoco",
            "RefCOCO (Kazemzadeh et al. 2014, Yu et al. 2016): 142,210 expressions on COCO images",
            RefCocoConfig,
            build_refcoco,
            TARGET,
            ReferringExpression,
            builders("refcoco", "unc"),
            official_source("refcoco", "unc").obtain,
        ),
        Entry(
            "refcoco+",
            "RefCOCO+ (Yu et al. 2016): 141,564 expressions without words of location",
            RefCocoConfig,
            build_refcoco,
            TARGET,
            ReferringExpression,
            builders("refcoco+", "unc"),
            official_source("refcoco+", "unc").obtain,
        ),
        Entry(
            "refcocog",
            "RefCOCOg (Mao et al. 2016): 95,010 longer expressions",
            RefCocogConfig,
            build_refcocog,
            TARGET,
            ReferringExpression,
            builders("refcocog", "umd"),
            official_source("refcocog", "umd").obtain,
        ),
    ]


@hookimpl
def vlrun_metrics() -> list[Entry[GroundingAccuracy]]:
    return [
        Entry(
            "grounding-accuracy",
            "Share of expressions whose box has enough IoU, with the oracle of the candidate boxes",
            GroundingAccuracyConfig,
            build_metric,
        )
    ]
