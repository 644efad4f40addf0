"""The demo world as the official archives of RefCOCO, RefCOCO+ and RefCOCOg.

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

from vlrun_demo.expressions import Expression, refer
from vlrun_demo.images import Image
from vlrun_demo.official_coco import coco_header, coco_image
from vlrun_demo.outlines import outline
from vlrun_demo.scene import FIGURES, KINDS, Scene, Thing, area, image_random

SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}

MOST_REFERENTS = 3  # of one image
MOST_SENTENCES = 3  # of one referent
_FIRST_CATEGORY = 1
_THINGS_PER_IMAGE = 100  # annotation id = image id * 100 + position of the thing


@dataclass(frozen=True)
class Referent:
    """A thing that a dataset talks about, with its expressions."""

    image: Image
    scene: Scene
    index: int
    expressions: tuple[Expression, ...]

    @property
    def thing(self) -> Thing:
        """The thing itself."""
        return self.scene.things[self.index]


def referents_of(dataset: str, chosen: Iterable[Image]) -> Iterator[Referent]:
    """Finds the referents of a dataset, image by image."""
    for image in chosen:
        yield from _referents(dataset, image)


def write_refcoco(dataset: str, folder: Path, chosen: Iterable[Image]) -> None:
    """Writes ``instances.json`` and ``refs(...).p`` of ``dataset`` about some images into ``folder``."""
    references: list[dict[str, Any]] = []
    scenes: dict[int, tuple[Image, Scene]] = {}
    num_sentences = 0
    for referent in referents_of(dataset, chosen):
        scenes[referent.image.image_id] = (referent.image, referent.scene)
        references.append(_reference(dataset, referent, len(references), num_sentences))
        num_sentences += len(referent.expressions)
    with (folder / f"refs({SPLIT_BY[dataset]}).p").open("wb") as file:
        pickle.dump(references, file, protocol=2)
    with (folder / "instances.json").open("w", encoding="utf-8") as file:
        json.dump(_instances(dataset, list(scenes.values())), file)


def _referents(dataset: str, image: Image) -> Iterator[Referent]:
    scene = image.scene()
    rng = image_random(image.image_id, dataset)
    # testA and testB differ in what they talk about, as the originals do: people there, robots, ghosts and cats here
    wanted = {"testA": (True,), "testB": (False,)}.get(image.split, (True, False))
    candidates = [index for index, thing in enumerate(scene.things) if thing.is_figure in wanted]
    num_referents = 0
    for index in rng.sample(candidates, len(candidates)):
        if num_referents == MOST_REFERENTS:
            break
        expressions = refer(scene, scene.things[index], dataset, rng, rng.randint(1, MOST_SENTENCES))
        if expressions:
            num_referents += 1
            yield Referent(image, scene, index, tuple(expressions))


def _reference(dataset: str, referent: Referent, ref_id: int, first_sentence: int) -> dict[str, Any]:
    image = referent.image
    split = "test" if dataset == "refcocog" and image.split.startswith("test") else image.split
    sentences = [
        {"tokens": expression.sent.split(), "raw": expression.raw, "sent_id": sent_id, "sent": expression.sent}
        for sent_id, expression in enumerate(referent.expressions, first_sentence)
    ]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"{image.stem}_{referent.index}.png",
        "ann_id": _annotation_id(image, referent.index),
        "ref_id": ref_id,
        "image_id": image.image_id,
        "split": split,
        "sentences": sentences,
        "category_id": _category_id(referent.thing.kind),
    }


def _instances(dataset: str, scenes: list[tuple[Image, Scene]]) -> dict[str, Any]:
    return {
        **coco_header(dataset, 2016),
        "images": [coco_image(image, scene) for image, scene in scenes],
        "annotations": [
            _annotation(image, index, thing) for image, scene in scenes for index, thing in enumerate(scene.things)
        ],
        "categories": [
            {"supercategory": "figure" if kind in FIGURES else "shape", "id": _category_id(kind), "name": kind}
            for kind in KINDS
        ],
    }


def _annotation(image: Image, index: int, thing: Thing) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    return {
        "segmentation": [[round(number, 2) for point in outline(thing) for number in point]],
        "area": round(area(thing.box), 2),
        "iscrowd": 0,
        "image_id": image.image_id,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "category_id": _category_id(thing.kind),
        "id": _annotation_id(image, index),
    }


def _category_id(kind: str) -> int:
    return _FIRST_CATEGORY + KINDS.index(kind)


def _annotation_id(image: Image, index: int) -> int:
    return image.image_id * _THINGS_PER_IMAGE + index
