"""The published captions of COCO and Flickr30k with retrieval splits (nothing heavy is imported)."""

from __future__ import annotations

from collections.abc import Iterator

from vlrun import Download, RemoteFile
from vlrun_retrieval.sources import (
    COLLECTIONS,
    FLICKR30K,
    KARPATHY_ARCHIVE,
    LXMERT_S_FILES,
    VOLTA_FILES,
    Collection,
)

_FOLDERS = {"coco-retrieval": "coco", "flickr30k": "flickr"}
"""What folders of VOLTA and ViLBERT with these captions are called, in part."""


def _downloads(collection: Collection) -> Iterator[Download]:
    name = collection.name
    yield Download(
        name=f"{name}-karpathy",
        summary=f"captions of {name} with Karpathy's splits",
        kind="annotations",
        makes=name,
        source=collection.publishes[0],
        recognised=(collection.karpathy_file,),
        files=(RemoteFile(name="caption_datasets.zip", urls=(KARPATHY_ARCHIVE,)),),
        page="https://cs.stanford.edu/people/karpathy/deepimagesent",
    )
    yield Download(
        name=f"{name}-rosita",
        summary=f"captions of {name} as ROSITA formats them",
        kind="annotations",
        makes=name,
        source="rosita",
        recognised=(collection.rosita_file,),
        page="https://github.com/MILVLG/rosita/blob/main/DATASET.md",
        manual_steps=("download the text annotations from the links on the page", "unpack them into one folder"),
    )
    yield Download(
        name=f"{name}-volta",
        summary=f"captions of {name} as ViLBERT and VOLTA have them",
        kind="annotations",
        makes=name,
        source="volta",
        recognised=tuple(f"*{_FOLDERS[name]}*/{file}" for file in VOLTA_FILES.values()),
        page="https://github.com/e-bug/volta/blob/main/data/README.md",
        manual_steps=("download the annotations that the page names",),
    )


DOWNLOADS = (
    *(download for collection in COLLECTIONS.values() for download in _downloads(collection)),
    Download(
        name="flickr30k-lxmert-s",
        summary="captions of Flickr30k as LXMERT-S reads them",
        kind="annotations",
        makes=FLICKR30K.name,
        source="lxmert-s",
        recognised=tuple(LXMERT_S_FILES.values()),
        page="https://github.com/lttsmn/LXMERT-S",
        manual_steps=("download the annotations that the README names",),
    ),
    Download(
        name="flickr30k-volta36",
        summary="images of Flickr30k, 36 boxes each, as VOLTA has them",
        kind="features",
        makes="flickr30k-volta36",
        recognised=("flickr30k/resnet101_faster_rcnn_genome_imgfeats/volta/flickr30k_feat.lmdb",),
        page="https://github.com/e-bug/volta/blob/main/data/README.md",
        manual_steps=("download the features that the page names",),
    ),
)
