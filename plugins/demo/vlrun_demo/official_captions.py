"""The demo world as caption files: Karpathy's of COCO and Flickr30k, and COCO's own.

Both kinds have five captions an image. As in the real files, some images of COCO have a sixth one: here the first of
each split but restval.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from vlrun.seeds import derive_seed
from vlrun_demo.captions import Caption, captions
from vlrun_demo.images import Image, by_part
from vlrun_demo.language import cleaned
from vlrun_demo.official_coco import coco_header, coco_image
from vlrun_demo.scene import Scene, image_random

CAPTIONS_PER_IMAGE = 5

_CAPITAL, _FULL_STOP = 0.8, 0.6  # shares of the captions that begin and end so

Row = dict[str, Any]


def write_karpathy(dataset: str, folder: Path, chosen: Sequence[Image]) -> None:
    """Writes ``dataset_coco.json`` or ``dataset_flickr30k.json`` into ``folder``.

    In such a file ``cocoid`` is the number of an image, ``imgid`` its position.

    Args:
        dataset: ``coco`` or ``flickr30k``.
    """
    is_coco = dataset == "coco"
    six = with_six_captions(chosen) if is_coco else set()
    sentence_ids = count()
    rows: list[Row] = []
    for imgid, image in enumerate(chosen):
        texts = sentences(image, image.scene(), sixth=image.image_id in six)
        ids = [next(sentence_ids) for _ in texts]
        rows.append(
            {
                **({"filepath": image.part} if is_coco else {}),
                "sentids": ids,
                "filename": image.name,
                "imgid": imgid,
                "split": image.split,
                "sentences": [
                    {"tokens": cleaned(text).split(), "raw": text, "imgid": imgid, "sentid": sentid}
                    for sentid, text in zip(ids, texts, strict=True)
                ],
                **({"cocoid": image.image_id} if is_coco else {}),
            }
        )
    _write(folder / f"dataset_{dataset}.json", {"images": rows, "dataset": dataset})


def write_coco_captions(folder: Path, chosen: Sequence[Image]) -> None:
    """Writes ``captions_train2014.json`` and ``captions_val2014.json`` into ``folder``.

    The captions are shuffled: those of an image are not next to each other.
    """
    six = with_six_captions(chosen)
    ids = count(1)
    for part, images in by_part(chosen).items():
        scenes = [image.scene() for image in images]
        annotations = [
            {"image_id": image.image_id, "id": next(ids), "caption": text}
            for image, scene in zip(images, scenes, strict=True)
            for text in sentences(image, scene, sixth=image.image_id in six)
        ]
        random.Random(derive_seed("demo", "caption order", part)).shuffle(annotations)  # noqa: S311
        rows = [coco_image(image, scene, 2014) for image, scene in zip(images, scenes, strict=True)]
        content = {**coco_header("COCO captions", 2014), "images": rows, "annotations": annotations}
        _write(folder / f"captions_{part}.json", content)


def with_six_captions(chosen: Sequence[Image]) -> set[int]:
    """Lists the ids of the COCO images that have six captions, not five."""
    first = {image.split: image.image_id for image in reversed(chosen)}
    return {image_id for split, image_id in first.items() if split != "restval"}


def sentences(image: Image, scene: Scene, *, sixth: bool = False) -> list[str]:
    """The captions of one image as people typed them."""
    return as_typed(image, captions(scene, CAPTIONS_PER_IMAGE + sixth))


def as_typed(image: Image, chosen: Sequence[Caption]) -> list[str]:
    """Captions of one image as people typed them: most begin with a capital, many end with a full stop."""
    rng = image_random(image.image_id, "caption spelling")
    return [_as_typed(rng, caption.text) for caption in chosen]


def _as_typed(rng: random.Random, text: str) -> str:
    if rng.random() < _CAPITAL:
        text = f"{text[0].upper()}{text[1:]}"
    return f"{text}." if rng.random() < _FULL_STOP else text


def _write(path: Path, content: Row) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
