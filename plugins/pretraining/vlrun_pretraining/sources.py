"""Where COCO's captions come from, and how many there should be (no torch, no numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ARCHIVE = "http://images.cocodataset.org/annotations/annotations_trainval2014.zip"

OBTAIN = f"Download {ARCHIVE} and unpack it; the captions are in its folder 'annotations'"


@dataclass(frozen=True)
class OfficialFile:
    """The captions of one split, and how large they are as published."""

    name: str
    images: int
    captions: int


OFFICIAL_FILES: Mapping[str, OfficialFile] = {
    "train": OfficialFile("captions_train2014.json", 82_783, 414_113),
    "val": OfficialFile("captions_val2014.json", 40_504, 202_654),
}

LXMERT_FILES = "https://nlp.cs.unc.edu/data/lxmert_data/lxmert/"
"""Where LXMERT's authors publish their pre-training files (README of github.com/airsplay/lxmert)."""

LXMERT_ANSWERS = "all_ans.json"

CLASS_NAMES = "objects_vocab.txt"
"""The detector's class names, one a line, of github.com/peteranderson80/bottom-up-attention."""

GENOME_SPLIT = "vgnococo"
"""Images of Visual Genome that are not COCO's."""

LXMERT_SPLITS = ("mscoco_train", "mscoco_nominival", GENOME_SPLIT, "mscoco_minival")
"""The first three are trained on, the last is held out (``run/lxmert_pretrain.bash``)."""

LXMERT_OBTAIN = (
    f"Download {', '.join(f'{split}.json' for split in LXMERT_SPLITS)} from {LXMERT_FILES}, and {LXMERT_ANSWERS} from "
    f"data/lxmert of github.com/airsplay/lxmert, into one folder; for topics of phrases also {CLASS_NAMES} from "
    "data/genome/1600-400-20 of github.com/peteranderson80/bottom-up-attention"
)

ANSWERS_FILE = "answers.json"
"""Name of the file of the answers that can be given, beside the annotations."""

ROSITA_PAGE = "https://github.com/MILVLG/rosita"

ROSITA_SETS = ("pt-coco", "pt-conceptual", "pt-sbu", "pt-vg")
"""What ROSITA is trained on, in this order (``configs/train-pt.yaml``)."""

ROSITA_HELD_OUT = "heldout"
"""Images of pt-coco that are left out of it, to measure on. Our choice: the authors evaluate nothing."""

ROSITA_PRIORS = "text_piror_coco_vg_cc_sbu.json"

ROSITA_PREFIXES: Mapping[str, str] = {"coco": "", "genome": "", "conceptual": "conceptual_", "sbu": "sbu_"}
"""Source of an image -> what stands before its name in our ids: different images have one name in two sources."""

ROSITA_FEATURES: Mapping[str, str] = {
    "coco": "mscoco_bua_r101_fix36",
    "genome": "visualgenome_bua_r101_fix36",
    "conceptual": "conceptual_bua_r101_fix36",
    "sbu": "sbu_bua_r101_fix36",
}
"""Source of an image -> the folder of its features, each with ``npz_files`` (``rosita/config/path_cfg.py`` 50-56)."""

ROSITA_OBTAIN = (
    f"Get the annotations of pre-training that {ROSITA_PAGE} links to (pt-coco, pt-conceptual, pt-sbu, pt-vg), and "
    f"{CLASS_NAMES} from rosita/utils/genome_vocabs of the repository, into one folder"
)

CLASS_NAMES_FILE = "classes.txt"
"""Name of the file of the names of detector classes, beside the annotations."""

WORD_VECTORS_FILE = "word_vectors.npz"
"""Name of the file of the vectors of words, beside the annotations."""
