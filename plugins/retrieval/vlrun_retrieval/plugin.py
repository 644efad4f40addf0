"""What this plugin registers: the task ``retrieval``, its two datasets, and the verb ``mine-negatives``."""

from __future__ import annotations

from vlrun import Builder, Command, DemoSource, Download, Entry, hookimpl
from vlrun_retrieval.downloads import DOWNLOADS
from vlrun_retrieval.sources import COCO, FLICKR30K, LXMERT_S_FILES, OBTAIN, VOLTA_FILES, Collection

TARGET = "caption"


def builders(collection: Collection) -> tuple[Builder, ...]:
    """One for each source that has the dataset."""
    karpathy = f"{collection.karpathy_file} of Karpathy's archive, or a folder with it"
    known = {
        "karpathy-five": f"{karpathy}: the first five captions of each image",
        "karpathy": f"{karpathy}: all captions",
        "rosita": f"{collection.rosita_file}, published with ROSITA, or a folder with it",
        "lxmert-s": f"folder with {', '.join(LXMERT_S_FILES.values())}, as LXMERT-S reads them",
        "volta": f"folder with {', '.join(VOLTA_FILES.values())} of VOLTA or ViLBERT",
    }
    return tuple(
        Builder(
            source=source,
            summary=known[source],
            function=f"vlrun_retrieval.build:build_{source.replace('-', '_')}",
            arguments=(collection,),
        )
        for source in collection.publishes
    )


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Retrieval."""
    return [
        Entry(
            name="retrieval",
            summary="Image-text retrieval: the captions of an image, and the image of a caption",
            config="vlrun_retrieval.config:RetrievalConfig",
            factory="vlrun_retrieval.contrastive:make_task",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """COCO captions and Flickr30k."""
    return [
        Entry(
            name="coco-retrieval",
            summary="COCO captions (Chen et al. 2015) with Karpathy's splits: 123,287 images, five or "
            "more captions each",
            config="vlrun_retrieval.config:CocoRetrievalConfig",
            factory="vlrun_retrieval.dataset:Captions",
            target=TARGET,
            record="vlrun_retrieval.records:ImageCaption",
            builders=builders(COCO),
            obtain=OBTAIN,
        ),
        Entry(
            name="flickr30k",
            summary="Flickr30k (Young et al. 2014) with Karpathy's splits: 31,014 images, five captions each",
            config="vlrun_retrieval.config:Flickr30kConfig",
            factory="vlrun_retrieval.dataset:Captions",
            target=TARGET,
            record="vlrun_retrieval.records:ImageCaption",
            builders=builders(FLICKR30K),
            obtain=OBTAIN,
        ),
    ]


@hookimpl
def vlrun_commands() -> list[Command]:
    """Mining hard negatives."""
    return [
        Command(
            name="mine-negatives",
            summary="write hard negatives for retrieval, found by a run's model",
            module="vlrun_retrieval.mine_command",
        )
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Captions of the demo's images."""
    return [
        DemoSource(
            name=name,
            provider="world",
            image_set=image_set,
            builder="karpathy",
            writer="vlrun_retrieval.demo:write_karpathy",
            arguments=(collection,),
            epochs=5,
        )
        for name, image_set, collection in (
            ("coco-retrieval", "retrieval", "coco"),
            ("flickr30k", "flickr", "flickr30k"),
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
