"""Demo data as COCO's own caption files."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from vlrun import DemoImage
from vlrun.seeds import derive_seed
from vlrun_demo.coco import coco_header, coco_image
from vlrun_demo.language import sentences, with_six_captions


def write_coco_captions(folder: Path, chosen: Sequence[DemoImage]) -> None:
    """Writes ``captions_train2014.json`` and ``captions_val2014.json`` into ``folder``.

    The captions are shuffled: those of an image are not next to each other.
    """
    six = with_six_captions(chosen)
    ids = count(1)
    for part in dict.fromkeys(image.part for image in chosen):
        images = [image for image in chosen if image.part == part]
        annotations = [
            {"image_id": image.number, "id": next(ids), "caption": text}
            for image in images
            for text in sentences(image, 6 if image.number in six else 5)
        ]
        random.Random(derive_seed("demo", "caption order", part)).shuffle(annotations)  # noqa: S311
        rows = [coco_image(image, 2014) for image in images]
        content = {**coco_header("COCO captions", 2014), "images": rows, "annotations": annotations}
        (folder / f"captions_{part}.json").write_text(json.dumps(content), encoding="utf-8")
