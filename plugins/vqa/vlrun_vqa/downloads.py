"""The published files of VQA v2 (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile
from vlrun_vqa.sources import LXMERT_SPLITS, ROSITA_FILE

_OFFICIAL = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_ARCHIVES = ("Questions_Train", "Questions_Val", "Questions_Test", "Annotations_Train", "Annotations_Val")
_LXMERT_SERVERS = ("https://nlp.cs.unc.edu", "https://nlp1.cs.unc.edu")
_LXMERT_VOCABULARY = "trainval_label2ans.json"

DOWNLOADS = (
    Download(
        name="vqav2-official",
        summary="questions and answers of VQA v2; minival needs LXMERT's or ROSITA's list beside it",
        kind="annotations",
        makes="vqav2",
        source="official",
        recognised=("v2_OpenEnded_mscoco_*_questions*.json", "v2_OpenEnded_mscoco_*_questions*.json.gz"),
        optional=("v2_OpenEnded_mscoco_*_questions*.json.gz",),
        files=tuple(
            RemoteFile(name=f"v2_{part}_mscoco.zip", urls=(f"{_OFFICIAL}/v2_{part}_mscoco.zip",)) for part in _ARCHIVES
        ),
        page="https://visualqa.org/download.html",
        licence="CC BY 4.0 (as its files say)",
    ),
    Download(
        name="vqav2-lxmert",
        summary="VQA v2 as LXMERT redistributes it: soft scores, with minival and nominival",
        kind="annotations",
        makes="vqav2",
        source="lxmert",
        recognised=tuple(f"vqa/{split}.json" for split in LXMERT_SPLITS),
        files=(
            *(
                RemoteFile(
                    name=f"{split}.json",
                    urls=tuple(f"{server}/data/lxmert_data/vqa/{split}.json" for server in _LXMERT_SERVERS),
                )
                for split in LXMERT_SPLITS
            ),
            RemoteFile(
                name=_LXMERT_VOCABULARY,
                urls=(f"https://raw.githubusercontent.com/airsplay/lxmert/master/data/vqa/{_LXMERT_VOCABULARY}",),
            ),
        ),
        page="https://github.com/airsplay/lxmert",
        licence="the repository's is MIT; of the questions CC BY 4.0",
    ),
    Download(
        name="vqav2-rosita",
        summary="VQA v2 as ROSITA formats it: train, val, minival, test",
        kind="annotations",
        makes="vqav2",
        source="rosita",
        recognised=(ROSITA_FILE, f"vqa-vqav2/{ROSITA_FILE.removesuffix('.json')}"),
        optional=(f"vqa-vqav2/{ROSITA_FILE.removesuffix('.json')}",),
        page="https://github.com/MILVLG/rosita/blob/main/DATASET.md",
        manual_steps=("download the text annotations from the links on the page", "unpack them into one folder"),
    ),
    Download(
        name="coco-volta36",
        summary="COCO train2014 and val2014, 36 boxes per image, as VOLTA has them",
        kind="features",
        makes="coco-volta36",
        recognised=("mscoco/resnet101_faster_rcnn_genome_imgfeats/volta/trainval_feat.lmdb",),
        page="https://github.com/e-bug/volta/blob/main/data/README.md",
        manual_steps=("download the features that the page names",),
    ),
)
