"""What ROSITA's authors publish: region features and weights (nothing heavy is imported)."""

from __future__ import annotations

from collections.abc import Iterator

from vlrun import Download, FeatureOrigin

_PAGE = "https://github.com/MILVLG/rosita/blob/main/DATASET.md"
_ON_A_SHARE = "a file share that only a browser can download from"

# bottom-up-attention.pytorch with the converted Caffe weights; the feature sets are called *_bua_r101_fix36
FEATURES = FeatureOrigin("bua-caffe", boxes="36")


def _features(store: str, folder: str, images: int | None = None) -> Iterator[Download]:
    """The same features, as the folder that fine-tuning reads and as the files that it was made from."""
    for name, source, inside in ((store, "rosita-tsv", "imgfeat.tsv"), (f"{store}-npz", "npz", "npz_files")):
        yield Download(
            name=name,
            summary=f"{folder} of ROSITA, 36 boxes per image, as {inside}",
            kind="features",
            makes=store,
            source=source,
            recognised=(f"{folder}/{inside}",),
            in_folder=source == "rosita-tsv",  # what is beside the file says where its rows begin
            page=_PAGE,
            manual_steps=(f"download {folder}.tar.gz from the page's link, {_ON_A_SHARE}", "unpack it"),
            images=images,
            features=FEATURES,
        )


DOWNLOADS = (
    *_features("coco-bua36", "mscoco_bua_r101_fix36", 123_287),
    *_features("flickr30k-bua36", "flickr_bua_r101_fix36", 31_014),
    *_features("visual-genome-bua36", "visualgenome_bua_r101_fix36"),
    *_features("sbu-bua36", "sbu_bua_r101_fix36"),
    *_features("conceptual-captions-bua36", "conceptual_bua_r101_fix36"),
    Download(
        name="rosita-base",
        summary="ROSITA's pre-trained weights",
        kind="weights",
        makes="rosita-base.safetensors",
        source="rosita",
        recognised=("rosita-base.pkl",),
        page="https://github.com/MILVLG/rosita/blob/main/MODEL_ZOO.md",
        manual_steps=(f"download rosita-base.pkl from the page's link, {_ON_A_SHARE}",),
    ),
    Download(
        name="bert-base-rosita",
        summary="BERT's weights, from which ROSITA's pre-training starts",
        kind="weights",
        makes="bert-base-rosita.safetensors",
        source="bert-rosita",
        recognised=("bert-base.pkl",),
        page="https://github.com/MILVLG/rosita",
        manual_steps=(
            f"download bert-base.pkl from the page's link, {_ON_A_SHARE}, or import hf:google-bert/bert-base-uncased",
        ),
    ),
)
