"""What this plugin registers: the task ``rec``, its three datasets and its metric."""

from __future__ import annotations

from vlrun import Builder, DemoSource, Download, Entry, hookimpl
from vlrun_rec.downloads import DOWNLOADS
from vlrun_rec.sources import OFFICIAL_SOURCES, official_source, rosita_file

TARGET = "referent"


def builders(dataset: str, split_by: str) -> tuple[Builder, ...]:
    """Lists the builders of a dataset; ``split_by`` says who made the splits that ROSITA used."""
    official = [
        Builder(
            source=source.name,
            summary=f"folder with instances.json and {source.refs_file}, unpacked {source.archive}",
            function="vlrun_rec.build:build_official",
            arguments=(source,),
        )
        for source in OFFICIAL_SOURCES
        if source.dataset == dataset
    ]
    rosita = Builder(
        source="rosita",
        summary=f"{rosita_file(dataset)}, published with ROSITA, or a folder with it",
        function="vlrun_rec.build:build_rosita",
        arguments=(dataset, split_by),
    )
    return (*official, rosita)


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task ``rec``."""
    return [
        Entry(
            name="rec",
            summary="Referring expression comprehension: a phrase -> its box",
            config="vlrun_rec.config:RecConfig",
            factory="vlrun_rec.task:RecTask",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """Registers RefCOCO, RefCOCO+ and RefCOCOg with their builders."""
    return [
        Entry(
            name=name,
            summary=summary,
            config=f"vlrun_rec.config:{config}",
            factory="vlrun_rec.dataset:ReferringExpressions",
            target=TARGET,
            record="vlrun_rec.records:ReferringExpression",
            builders=builders(name, split_by),
            obtain=official_source(name, split_by).obtain,
        )
        for name, config, split_by, summary in (
            (
                "refcoco",
                "RefCocoConfig",
                "unc",
                "RefCOCO (Kazemzadeh et al. 2014, Yu et al. 2016): 142,210 expressions on COCO images",
            ),
            (
                "refcoco+",
                "RefCocoConfig",
                "unc",
                "RefCOCO+ (Yu et al. 2016): 141,564 expressions without words of location",
            ),
            ("refcocog", "RefCocogConfig", "umd", "RefCOCOg (Mao et al. 2016): 95,010 longer expressions"),
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry]:
    """Registers the accuracy at an IoU threshold."""
    return [
        Entry(
            name="grounding-accuracy",
            summary="Share of expressions whose box has enough IoU, with the oracle of the candidate boxes",
            config="vlrun_rec.config:GroundingAccuracyConfig",
            factory="vlrun_rec.metric:GroundingAccuracy",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Registers expressions about the demo's images."""
    return [
        DemoSource(
            name=name,
            provider="world",
            image_set="coco",
            builder="official",
            writer="vlrun_rec.demo.files:write_refcoco",
            arguments=(name,),
            epochs=epochs,
        )
        for name, epochs in {"refcoco": 12, "refcoco+": 8, "refcocog": 12}.items()
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
