"""Where COCO captions and Flickr30k come from, and how large their splits should be (no torch, no numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KARPATHY_ARCHIVE = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"

OBTAIN = f"Download {KARPATHY_ARCHIVE} and unpack it; it holds captions and splits of both datasets, and no images"

KARPATHY_SPLITS: Mapping[str, str] = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Split in Karpathy's files -> ours. Retrieval papers train on restval too, so ``train`` always means both here."""

VOLTA_FILES: Mapping[str, str] = {"train": "train_ann.jsonl", "val": "valid_ann.jsonl", "test": "test_ann.jsonl"}
LXMERT_S_FILES: Mapping[str, str] = {"train": "flickr30k_train2014.json", "test": "flickr30k_test2014.json"}
"""The year in their names is that of COCO, the images are Flickr30k's."""

ROSITA_MAP = "img_text_map.json"
CAPTIONS_PER_IMAGE = 5


@dataclass(frozen=True)
class Collection:
    """What is known about one dataset.

    Attributes:
        karpathy: what Karpathy's file calls it.
        rosita_set: what ROSITA calls it.
        rosita_splits: split there -> ours.
        images: split -> published number of images, after Karpathy and Fei-Fei 2015, with restval in ``train``; None
            where none is published.
        publishes: sources, as in ``--from``, that have it.
    """

    name: str
    karpathy: str
    rosita_set: str
    rosita_splits: Mapping[str, str]
    images: Mapping[str, int | None]
    publishes: tuple[str, ...]

    @property
    def karpathy_file(self) -> str:
        """Its file in Karpathy's archive."""
        return f"dataset_{self.karpathy}.json"

    @property
    def rosita_file(self) -> str:
        """Its annotation file as ROSITA publishes it."""
        return f"{self.rosita_set.replace('-', '_')}_annotations.json"


# Not every number was counted in the files by us, so a difference is a remark of the builder and not an error.
COCO = Collection(
    name="coco-retrieval",
    karpathy="coco",
    rosita_set="itr-coco",
    # ROSITA validates on its 'test' while it trains, and tests on 'testall'. That the former are 1,000 of the latter's
    # 5,000 images is our inference: its repository does not say
    rosita_splits={"train": "train", "test": "test1k", "testall": "test"},
    images={"train": 113_287, "val": 5_000, "test": 5_000, "test1k": None},
    publishes=("karpathy-five", "karpathy", "rosita", "volta"),
)
FLICKR30K = Collection(
    name="flickr30k",
    karpathy="flickr30k",
    rosita_set="itr-flickr",
    rosita_splits={"train": "train", "test": "test"},
    images={"train": 29_000, "val": 1_014, "test": 1_000},
    publishes=("karpathy", "rosita", "lxmert-s", "volta"),
)
COLLECTIONS: Mapping[str, Collection] = {collection.name: collection for collection in (COCO, FLICKR30K)}
