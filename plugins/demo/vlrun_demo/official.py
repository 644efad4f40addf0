"""The official files of every dataset of the demo world."""

from __future__ import annotations

from pathlib import Path

from vlrun_demo.official_captions import write_coco_captions, write_karpathy
from vlrun_demo.official_gqa import write_gqa
from vlrun_demo.official_lxmert import write_lxmert_pretraining
from vlrun_demo.official_nlvr2 import write_nlvr2
from vlrun_demo.official_refcoco import write_refcoco
from vlrun_demo.official_vqa import write_vqa
from vlrun_demo.pairs import pair_sets
from vlrun_demo.world import COCO, FLICKR, GQA, PRETRAINING, RETRIEVAL, VQA, images


def write_dataset(dataset: str, folder: Path) -> None:
    """Writes the files of ``dataset``, about all of its images, into ``folder``."""
    if dataset == "vqav2":
        write_vqa(folder, images(VQA))
    elif dataset == "gqa":
        write_gqa(folder, images(GQA))
    elif dataset == "nlvr2":
        write_nlvr2(folder, pair_sets())
    elif dataset == "coco-retrieval":
        write_karpathy("coco", folder, images(RETRIEVAL))
    elif dataset == "flickr30k":
        write_karpathy("flickr30k", folder, images(FLICKR))
    elif dataset == "lxmert-pretraining":
        write_lxmert_pretraining(folder, images(PRETRAINING))
    elif dataset == "coco-captions":
        write_coco_captions(folder, images(PRETRAINING))
    else:
        write_refcoco(dataset, folder, images(COCO))
