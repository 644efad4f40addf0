"""The published files of RefCOCO, RefCOCO+ and RefCOCOg (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile
from vlrun_rec.sources import ROSITA_SETS, rosita_file

_SERVER = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
_ARCHIVED = {"refcoco": "20220413011718", "refcoco+": "20220413011656", "refcocog": "20220413012904"}
"""When the Internet Archive kept the file: the server is often down."""

_OFFICIAL = tuple(
    Download(
        name=f"{dataset}-official",
        summary=f"referents and instances of {dataset}, splits of {split_by}",
        kind="annotations",
        makes=dataset,
        source="official",
        recognised=(f"{dataset}/refs({split_by}).p",),
        files=(
            RemoteFile(
                name=f"{dataset}.zip",
                urls=(
                    f"{_SERVER}/{dataset}.zip",
                    f"https://web.archive.org/web/{_ARCHIVED[dataset]}/{_SERVER}/{dataset}.zip",
                ),
            ),
        ),
        page="https://github.com/lichengunc/refer",
    )
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd"))
)
_ROSITA = tuple(
    Download(
        name=f"{dataset}-rosita",
        summary=f"{dataset} as ROSITA formats it",
        kind="annotations",
        makes=dataset,
        source="rosita",
        recognised=(rosita_file(dataset), f"{folder}/{rosita_file(dataset).removesuffix('.json')}"),
        optional=(f"{folder}/{rosita_file(dataset).removesuffix('.json')}",),
        page="https://github.com/MILVLG/rosita/blob/main/DATASET.md",
        manual_steps=("download the text annotations from the links on the page", "unpack them into one folder"),
    )
    for dataset, folder in ROSITA_SETS.items()
)
DOWNLOADS = (
    *_OFFICIAL,
    *_ROSITA,
    Download(
        name="refcoco+-volta36",
        summary="MAttNet's detections on images of RefCOCO+, 36 each, as VOLTA has them",
        kind="features",
        makes="refcoco+-volta36",
        recognised=("refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta/refcoco+_unc_dets36_feat.lmdb",),
        page="https://github.com/e-bug/volta/blob/main/data/README.md",
        manual_steps=("download the features that the page names",),
    ),
)
