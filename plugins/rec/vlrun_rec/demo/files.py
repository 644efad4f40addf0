"""Demo data as the official archives of RefCOCO, RefCOCO+ and RefCOCOg.

Each folder holds ``instances.json`` in COCO's format and ``refs(unc).p`` or ``refs(umd).p``, a pickle of plain lists
and dictionaries, with the habits of the originals: the ``file_name`` of a referent carries a suffix that no image has,
ids of referents and sentences count from 0 in each dataset, and ``raw`` is what somebody typed.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrun import DemoImage, DemoObject
from vlrun_demo.coco import coco_header, coco_image
from vlrun_demo.language import FIGURES, KINDS, image_random
from vlrun_rec.demo.expressions import Expression, refer

SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}

MOST_REFERENTS = 3  # of one image
MOST_SENTENCES = 3  # of one referent
_FIRST_CATEGORY = 1
_THINGS_PER_IMAGE = 100  # annotation id = image id * 100 + position of the thing


@dataclass(frozen=True)
class Referent:
    """A thing that a dataset talks about, with its expressions."""

    image: DemoImage
    index: int
    expressions: tuple[Expression, ...]

    @property
    def thing(self) -> DemoObject:
        """The thing itself."""
        return self.image.objects[self.index]


def referents_of(dataset: str, chosen: Iterable[DemoImage]) -> Iterator[Referent]:
    """Finds the referents of a dataset, image by image."""
    for image in chosen:
        yield from _referents(dataset, image)


def write_refcoco(dataset: str, folder: Path, chosen: Iterable[DemoImage]) -> None:
    """Writes ``instances.json`` and ``refs(...).p`` of ``dataset`` about some images into ``folder``."""
    references: list[dict[str, Any]] = []
    shown: dict[int, DemoImage] = {}
    num_sentences = 0
    for referent in referents_of(dataset, chosen):
        shown[referent.image.number] = referent.image
        references.append(_reference(dataset, referent, len(references), num_sentences))
        num_sentences += len(referent.expressions)
    with (folder / f"refs({SPLIT_BY[dataset]}).p").open("wb") as file:
        pickle.dump(references, file, protocol=2)
    with (folder / "instances.json").open("w", encoding="utf-8") as file:
        json.dump(_instances(dataset, list(shown.values())), file)


def _referents(dataset: str, image: DemoImage) -> Iterator[Referent]:
    rng = image_random(image.number, dataset)
    # testA and testB differ in what they talk about, as the originals do: people there, robots, ghosts and cats here
    wanted = {"testA": (True,), "testB": (False,)}.get(image.split, (True, False))
    candidates = [index for index, thing in enumerate(image.objects) if (thing.name in FIGURES) in wanted]
    num_referents = 0
    for index in rng.sample(candidates, len(candidates)):
        if num_referents == MOST_REFERENTS:
            break
        expressions = refer(image, image.objects[index], dataset, rng, rng.randint(1, MOST_SENTENCES))
        if expressions:
            num_referents += 1
            yield Referent(image, index, tuple(expressions))


def _reference(dataset: str, referent: Referent, ref_id: int, first_sentence: int) -> dict[str, Any]:
    image = referent.image
    split = "test" if dataset == "refcocog" and image.split.startswith("test") else image.split
    sentences = [
        {"tokens": expression.sent.split(), "raw": expression.raw, "sent_id": sent_id, "sent": expression.sent}
        for sent_id, expression in enumerate(referent.expressions, first_sentence)
    ]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"{image.id}_{referent.index}.png",
        "ann_id": _annotation_id(image, referent.index),
        "ref_id": ref_id,
        "image_id": image.number,
        "split": split,
        "sentences": sentences,
        "category_id": _category_id(referent.thing.name),
    }


def _instances(dataset: str, images: list[DemoImage]) -> dict[str, Any]:
    return {
        **coco_header(dataset, 2016),
        "images": [coco_image(image, 2016) for image in images],
        "annotations": [
            _annotation(image, index, thing) for image in images for index, thing in enumerate(image.objects)
        ],
        "categories": [
            {"supercategory": "figure" if kind in FIGURES else "shape", "id": _category_id(kind), "name": kind}
            for kind in KINDS
        ],
    }


def _annotation(image: DemoImage, index: int, thing: DemoObject) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    return {
        "segmentation": [[round(number, 2) for point in thing.outline for number in point]],
        "area": round((x2 - x1) * (y2 - y1), 2),
        "iscrowd": 0,
        "image_id": image.number,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "category_id": _category_id(thing.name),
        "id": _annotation_id(image, index),
    }


def _category_id(kind: str) -> int:
    return _FIRST_CATEGORY + KINDS.index(kind)


def _annotation_id(image: DemoImage, index: int) -> int:
    return image.number * _THINGS_PER_IMAGE + index
