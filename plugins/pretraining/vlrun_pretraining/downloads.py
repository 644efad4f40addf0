"""The published captions of COCO (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile
from vlrun_pretraining.sources import ARCHIVE, OFFICIAL_FILES

DOWNLOADS = (
    Download(
        name="coco-captions-official",
        summary="COCO's captions of 2014",
        kind="annotations",
        makes="coco-captions",
        source="official",
        recognised=tuple(file.name for file in OFFICIAL_FILES.values()),
        files=(RemoteFile(name="annotations_trainval2014.zip", urls=(ARCHIVE,)),),
        page="https://cocodataset.org/#download",
    ),
)
