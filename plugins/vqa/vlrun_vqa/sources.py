"""Where VQA v2 comes from, and how large its splits should be (no torch, no numpy)."""

from __future__ import annotations

import re
from collections.abc import Mapping

OBTAIN = (
    "Download v2_Questions_{Train,Val,Test}_mscoco.zip and v2_Annotations_{Train,Val}_mscoco.zip from "
    "https://visualqa.org/download.html and unpack them into one folder"
)

SPLIT_SIZES: Mapping[str, int] = {
    "train": 443_757,
    "val": 214_354,
    "minival": 25_994,
    "nominival": 188_360,
    "test": 447_793,
    "test-dev": 107_394,
}
"""Split -> questions, as VQA and LXMERT publish them. We have not counted all of them, so a difference is a remark."""

OFFICIAL_SPLITS: Mapping[str, str] = {
    "train2014": "train",
    "val2014": "val",
    "minival2014": "minival",
    "test2015": "test",
    "test-dev2015": "test-dev",
}
"""Name of a part in the official file names -> our split. ``minival2014`` is ROSITA's addition to them."""

HIDDEN_SPLITS = ("test", "test-dev")

_IMAGES = {"minival2014": "val2014", "nominival2014": "val2014", "test-dev2015": "test2015"}
_SUBSET = "|".join(map(re.escape, OFFICIAL_SPLITS))
OFFICIAL_NAME = re.compile(
    rf"(?:v2_OpenEnded_mscoco_(?P<asked>{_SUBSET})_questions|v2_mscoco_(?P<answered>{_SUBSET})_annotations)"
    r"(?P<extra>\.[\w.-]+?)?\.json(?:\.gz)?"
)
"""``v2_OpenEnded_mscoco_train2014_questions.json``, perhaps with more: ``...questions.subset.json.gz``."""

LXMERT_SPLITS = ("train", "nominival", "minival", "test")
LXMERT_ANSWERS = ("trainval_label2ans.json", "trainval_ans2label.json")
ROSITA_FILE = "vqa_vqav2_annotations.json"
ROSITA_ANSWERS = ("answer_vocab.json",)


def image_id(subset: str, number: int) -> str:
    """The canonical id of a COCO image: that of a part of VQA, such as ``val2014``, and the image's number."""
    return f"COCO_{_IMAGES.get(subset, subset)}_{number:012d}"


def image_set(subset: str) -> str:
    """The COCO images that a part of VQA asks about."""
    return _IMAGES.get(subset, subset)
