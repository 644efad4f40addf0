"""The published files of NLVR2 (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile
from vlrun_nlvr2.sources import LXMERT_FILES, LXMERT_REPOSITORY, PUBLISHED_SIZES, REPOSITORY

_OFFICIAL = "https://raw.githubusercontent.com/lil-lab/nlvr/master/nlvr2/data"

_ELSEWHERE = (
    *(f"nlvr2/annotations/{split}.json" for split in PUBLISHED_SIZES),  # VOLTA's folder
    *(f"nlvr2/{split}.json" for split in PUBLISHED_SIZES if split != "train"),  # LXMERT has another file of that name
)
"""Where copies of the same files lie in folders of others."""

DOWNLOADS = (
    Download(
        name="nlvr2-official",
        summary="statements of NLVR2",
        kind="annotations",
        makes="nlvr2",
        source="official",
        recognised=(*(f"nlvr2/data/{split}.json" for split in PUBLISHED_SIZES), *_ELSEWHERE),
        optional=_ELSEWHERE,
        files=tuple(RemoteFile(name=f"{split}.json", urls=(f"{_OFFICIAL}/{split}.json",)) for split in PUBLISHED_SIZES),
        page=REPOSITORY,
        terms="the photographs are others' and need a request; they are not needed here",
    ),
    Download(
        name="nlvr2-lxmert",
        summary="statements of NLVR2 as LXMERT's script writes them",
        kind="annotations",
        makes="nlvr2",
        source="lxmert",
        recognised=tuple(f"nlvr2/{name}" for name in LXMERT_FILES.values()),
        page=LXMERT_REPOSITORY,
        manual_steps=("run data/nlvr2/process_raw_data_scripts/process_dataset.py of the repository",),
    ),
    Download(
        name="nlvr2-volta36",
        summary="images of NLVR2, 36 boxes each, as VOLTA has them",
        kind="features",
        makes="nlvr2-volta36",
        recognised=("nlvr2/resnet101_faster_rcnn_genome_imgfeats/volta/nlvr2_feat.lmdb",),
        page="https://github.com/e-bug/volta/blob/main/data/README.md",
        manual_steps=("download the features that the page names",),
    ),
)
