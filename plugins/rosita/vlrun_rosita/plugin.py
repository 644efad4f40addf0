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
    """The authors' files, and BERT's."""
    return [
        WeightFormat(
            name="rosita",
            backbone="rosita",
            summary="the authors' .pkl files, pre-trained or fine-tuned",
            translator="vlrun_rosita.checkpoint:translate",
            exporter="vlrun_rosita.checkpoint:export_rosita",
            seen=SEEN,
            licence="not stated by the authors (https://github.com/MILVLG/rosita)",
            features=FEATURES,
            head_meanings={"grounding_head": {}},
            answer_lists={3129: "answer_vocab.json of the authors' data (their order is not LXMERT's)"},
        ),
        WeightFormat(
            name="bert-rosita",
            backbone="rosita",
            summary="BERT as a start: the authors' bert-base.pkl, or bert-base-uncased of Hugging Face",
            translator="vlrun_rosita.checkpoint:translate_bert",
            partial=True,
            random=("visual_embeddings",),
            licence="Apache-2.0 (https://huggingface.co/google-bert/bert-base-uncased)",
        ),
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
