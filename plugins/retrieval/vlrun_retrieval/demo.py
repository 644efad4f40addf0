"""Demo data as Karpathy's caption files of COCO and Flickr30k: five captions an image, and six of some of COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from vlrun import DemoImage
from vlrun_demo.language import cleaned, sentences, with_six_captions


def write_karpathy(dataset: str, folder: Path, chosen: Sequence[DemoImage]) -> None:
    """Writes ``dataset_coco.json`` or ``dataset_flickr30k.json`` into ``folder``.

    In such a file ``cocoid`` is the number of an image, ``imgid`` its position.

    Args:
        dataset: ``coco`` or ``flickr30k``.
    """
    is_coco = dataset == "coco"
    six = with_six_captions(chosen) if is_coco else set()
    sentence_ids = count()
    rows: list[dict[str, Any]] = []
    for imgid, image in enumerate(chosen):
        texts = sentences(image, 6 if image.number in six else 5)
        ids = [next(sentence_ids) for _ in texts]
        rows.append(
            {
                **({"filepath": image.part} if is_coco else {}),
                "sentids": ids,
                "filename": image.file_name,
                "imgid": imgid,
                "split": image.split,
                "sentences": [
                    {"tokens": cleaned(text).split(), "raw": text, "imgid": imgid, "sentid": sentid}
                    for sentid, text in zip(ids, texts, strict=True)
                ],
                **({"cocoid": image.number} if is_coco else {}),
            }
        )
    content = json.dumps({"images": rows, "dataset": dataset})
    (folder / f"dataset_{dataset}.json").write_text(content, encoding="utf-8")
