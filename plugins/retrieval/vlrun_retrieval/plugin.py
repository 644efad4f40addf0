"""What this plugin registers: the task ``retrieval``, the datasets ``coco-retrieval`` and ``flickr30k``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import Builder, BuildReport, DatasetConfig, Entry, hookimpl
from vlrun_retrieval.config import CocoRetrievalConfig, Flickr30kConfig, RetrievalConfig
from vlrun_retrieval.records import ImageCaption
from vlrun_retrieval.sources import (
    CAPTIONS_PER_IMAGE,
    COCO,
    FLICKR30K,
    LXMERT_S_FILES,
    OBTAIN,
    VOLTA_FILES,
    Collection,
)

if TYPE_CHECKING:
    from vlrun_retrieval.dataset import Captions
    from vlrun_retrieval.task import RetrievalTask

TARGET = "caption"

Translation = Callable[[Collection, Path, Path], BuildReport]


def build_task(config: RetrievalConfig) -> RetrievalTask:
    from vlrun_retrieval.task import RetrievalTask

    return RetrievalTask(config)


def build_dataset(config: DatasetConfig, split: str) -> Captions:
    from vlrun_retrieval.dataset import Captions

    return Captions(config, split)


def build_karpathy(collection: Collection, source: Path, output: Path) -> BuildReport:
    from vlrun_retrieval import build

    return build.build_karpathy(collection, source, output)


def build_karpathy_five(collection: Collection, source: Path, output: Path) -> BuildReport:
    from vlrun_retrieval import build

    return build.build_karpathy(collection, source, output, captions_per_image=CAPTIONS_PER_IMAGE)


def build_rosita(collection: Collection, source: Path, output: Path) -> BuildReport:
    from vlrun_retrieval import build

    return build.build_rosita(collection, source, output)


def build_lxmert_s(collection: Collection, folder: Path, output: Path) -> BuildReport:
    from vlrun_retrieval import build

    return build.build_lxmert_s(collection, folder, output)


def build_volta(collection: Collection, folder: Path, output: Path) -> BuildReport:
    from vlrun_retrieval import build

    return build.build_volta(collection, folder, output)


def builders(collection: Collection) -> tuple[Builder, ...]:
    """One for each source that has the dataset."""
    karpathy = f"{collection.karpathy_file} of Karpathy's archive, or a folder with it"
    known: dict[str, tuple[str, Translation]] = {
        "karpathy-five": (
            f"{karpathy}: the first five captions of each image",
            build_karpathy_five,
        ),
        "karpathy": (f"{karpathy}: all captions", build_karpathy),
        "rosita": (f"{collection.rosita_file}, published with ROSITA, or a folder with it", build_rosita),
        "lxmert-s": (f"folder with {', '.join(LXMERT_S_FILES.values())}, as LXMERT-S reads them", build_lxmert_s),
        "volta": (f"folder with {', '.join(VOLTA_FILES.values())} of VOLTA or ViLBERT", build_volta),
    }
    return tuple(
        Builder(source, known[source][0], partial(known[source][1], collection)) for source in collection.publishes
    )


@hookimpl
def vlrun_tasks() -> list[Entry[RetrievalTask]]:
    summary = "Image-text retrieval: the captions of an image, and the image of a caption"
    return [Entry("retrieval", summary, RetrievalConfig, build_task, TARGET)]


@hookimpl
def vlrun_datasets() -> list[Entry[Captions]]:
    return [
        Entry(
            "coco-retrieval",
            "COCO captions (Chen et al. 2015) with Karpathy's splits: 123,287 images, five or more captions each",
            CocoRetrievalConfig,
            build_dataset,
            TARGET,
            ImageCaption,
            builders(COCO),
            OBTAIN,
        ),
        Entry(
            "flickr30k",
            "Flickr30k (Young et al. 2014) with Karpathy's splits: 31,014 images, five captions each",
            Flickr30kConfig,
            build_dataset,
            TARGET,
            ImageCaption,
            builders(FLICKR30K),
            OBTAIN,
        ),
    ]
