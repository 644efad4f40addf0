"""What this plugin offers: the backbone ``rosita`` and the reader of its authors' weights."""

from __future__ import annotations

from vlrun import Download, Entry, WeightFormat, hookimpl
from vlrun_rosita.downloads import DOWNLOADS, FEATURES


@hookimpl
def vlrun_backbones() -> list[Entry]:
    """The network."""
    return [
        Entry(
            name="rosita",
            summary="single-stream transformer (Cui et al. 2021)",
            config="vlrun_rosita.config:RositaConfig",
            factory="vlrun_rosita.model:Rosita.from_config",
        )
    ]


# configs/train-pt.yaml of the authors: pt-coco, pt-conceptual, pt-sbu and pt-vg, split train of each. Which images
# these splits hold is in annotation files that no repository has
SEEN = (
    "possibly COCO_train2014_*",
    "possibly COCO_val2014_*",
    "possibly visual-genome:*",
    "possibly sbu:*",
    "possibly conceptual-captions:*",
)


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    """The authors' files."""
    return [
        WeightFormat(
            name="rosita",
            backbone="rosita",
            summary="the authors' .pkl files, pre-trained or fine-tuned",
            translator="vlrun_rosita.checkpoint:translate",
            seen=SEEN,
            licence="not stated by the authors (https://github.com/MILVLG/rosita)",
            features=FEATURES,
            answer_lists={3129: "answer_vocab.json of the authors' data (their order is not LXMERT's)"},
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
