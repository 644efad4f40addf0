"""The published captions of COCO and texts of LXMERT's pre-training (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile
from vlrun_pretraining.sources import ARCHIVE, LXMERT_ANSWERS, LXMERT_FILES, LXMERT_SPLITS, OFFICIAL_FILES

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
    Download(
        name="lxmert-pretraining-texts",
        summary="captions and questions of LXMERT's pre-training, and the answers that can be given",
        kind="annotations",
        makes="lxmert-pretraining",
        source="lxmert",
        recognised=(LXMERT_ANSWERS, *(f"{split}.json" for split in LXMERT_SPLITS)),
        files=(
            *(RemoteFile(name=f"{split}.json", urls=(f"{LXMERT_FILES}{split}.json",)) for split in LXMERT_SPLITS),
            RemoteFile(
                name=LXMERT_ANSWERS,
                urls=(f"https://raw.githubusercontent.com/airsplay/lxmert/master/data/lxmert/{LXMERT_ANSWERS}",),
            ),
        ),
        page="https://github.com/airsplay/lxmert",
        licence="the repository's is MIT",
    ),
)
