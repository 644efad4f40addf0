"""The published captions of COCO and texts of LXMERT's pre-training (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, FeatureOrigin, RemoteFile
from vlrun_pretraining.sources import (
    ARCHIVE,
    CLASS_NAMES,
    LXMERT_ANSWERS,
    LXMERT_FILES,
    LXMERT_SPLITS,
    OFFICIAL_FILES,
    ROSITA_FEATURES,
    ROSITA_PAGE,
    ROSITA_SETS,
)

_SERVERS = ("https://nlp.cs.unc.edu/data", "https://nlp1.cs.unc.edu/data")
_FEATURES = (("mscoco_imgfeat", "train2014"), ("mscoco_imgfeat", "val2014"), ("vg_gqa_imgfeat", "vg_gqa"))

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
    Download(
        name="coco+vg-obj36",
        summary="COCO train2014 and val2014 and Visual Genome, 36 boxes per image, as LXMERT publishes them",
        kind="features",
        makes="coco+vg-obj36",
        source="lxmert-tsv",
        recognised=(),  # an old folder is not copied into a second store unless somebody asks for it
        files=tuple(
            RemoteFile(
                name=f"{name}_obj36.zip",
                urls=tuple(f"{server}/lxmert_data/{folder}/{name}_obj36.zip" for server in _SERVERS),
            )
            for folder, name in _FEATURES
        ),
        page="https://github.com/airsplay/lxmert",
        features=FeatureOrigin("bua-caffe", boxes="36"),
    ),
    Download(
        name="rosita-pretraining-texts",
        summary="texts of ROSITA's pre-training with their scene graphs",
        kind="annotations",
        makes="rosita-pretraining",
        source="rosita",
        recognised=ROSITA_SETS,  # folders, so that the importer is given the one above them
        page=f"{ROSITA_PAGE}/blob/main/DATASET.md",
        manual_steps=(
            "download the annotations of pre-training from the page's link, a file share that only a browser can "
            "download from, and unpack them",
            f"put {CLASS_NAMES} of rosita/utils/genome_vocabs beside the folder annotations, in genome_vocabs",
        ),
    ),
    Download(
        name="rosita-pretraining-bua36",
        summary="COCO, Visual Genome, Conceptual Captions and SBU, 36 boxes per image, of ROSITA",
        kind="features",
        makes="rosita-pretraining-bua36",
        source="rosita-pretraining",
        recognised=(),  # an old folder is not copied into a second store unless somebody asks for it
        page=f"{ROSITA_PAGE}/blob/main/DATASET.md",
        manual_steps=(
            f"download {', '.join(f'{folder}.tar.gz' for folder in ROSITA_FEATURES.values())} from the page's links",
            "unpack them into one folder",
        ),
        features=FeatureOrigin("bua-caffe", boxes="36"),
    ),
)
