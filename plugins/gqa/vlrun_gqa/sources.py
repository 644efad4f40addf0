"""Where GQA comes from, how its files are called and how large its splits should be (no torch, no numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DOWNLOAD_PAGE = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
LXMERT_PAGE = "https://github.com/airsplay/lxmert"

OFFICIAL_OBTAIN = (
    f"Download the questions (questions1.2.zip) from {DOWNLOAD_PAGE} and unpack them; for validity and plausibility "
    "put val_choices.json of the evaluation archive (eval.zip) beside them"
)
LXMERT_OBTAIN = (
    "Get train.json, valid.json, testdev.json, submit.json and trainval_label2ans.json of the folder gqa that "
    f"{LXMERT_PAGE} publishes"
)

# The official name of a split -> ours, which is LXMERT's.
_OFFICIAL_NAMES = {"train": "train", "val": "valid", "testdev": "testdev", "test": "test", "challenge": "challenge"}

OFFICIAL_FILES: Mapping[str, str] = MappingProxyType(
    {
        **{split: f"{name}_balanced_questions" for name, split in _OFFICIAL_NAMES.items()},
        **{f"{split}_all": f"{name}_all_questions" for name, split in _OFFICIAL_NAMES.items()},
        "submission": "submission_all_questions",
    }
)
"""Split -> official file, or folder of numbered files, without its suffix."""

CHOICES_FILES: Mapping[str, str] = MappingProxyType(
    {split + end: f"{name}_choices" for name, split in _OFFICIAL_NAMES.items() for end in ("", "_all")}
)
"""Split -> official file of valid and plausible answers; of the published splits only train and valid have one."""

LXMERT_FILES: Mapping[str, str] = MappingProxyType(
    {"train": "train", "valid": "valid", "testdev": "testdev", "submission": "submit"}
)
"""Split -> file of LXMERT's redistribution, without its suffix."""

LXMERT_VOCABULARY = "trainval_label2ans"

SPLITS = tuple(OFFICIAL_FILES)

NUM_TRAIN_ALL_FILES = 10
"""train_all_questions_0.json to train_all_questions_9.json."""

# As the paper and the download page give them; only testdev was counted in a file by us, so a difference is a remark of
# the builder and not an error.
PUBLISHED_SIZES: Mapping[str, int] = MappingProxyType(
    {
        "train": 943_000,
        "train_all": 14_305_356,
        "valid": 132_062,
        "valid_all": 2_011_853,
        "testdev": 12_578,
        "testdev_all": 172_174,
        "test": 95_336,
        "test_all": 1_340_048,
        "challenge": 50_726,
        "challenge_all": 713_449,
    }
)
"""Split -> number of questions."""

SUBMISSION_FILE = 'a JSON list of {"questionId": "...", "prediction": "..."}'
"""What the evaluation server takes, in a few words."""
