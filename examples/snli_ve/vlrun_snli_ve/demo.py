"""Statements about the demo's images, in the official file format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlrun import DemoImage
from vlrun.seeds import derive_seed

_SPLITS = {"train": "train", "val": "dev", "test": "test"}
_UNSEEN = ("heavy", "new", "old", "soft")  # what no picture tells


def write_statements(folder: Path, images: Sequence[DemoImage]) -> None:
    """Writes a file for each split, with as many statements of each label about every image."""
    colours = sorted({found.attributes["colour"] for image in images for found in image.objects})
    for split, name in _SPLITS.items():
        rows = [row for image in images if image.split == split for row in _rows(image, colours)]
        (folder / f"snli_ve_{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _rows(image: DemoImage, colours: Sequence[str]) -> Iterator[dict[str, str]]:
    rng = random.Random(derive_seed("snli-ve", image.id))  # noqa: S311
    seen = sorted({(found.attributes["colour"], found.name) for found in image.objects})
    absent = sorted({(colour, kind) for colour in colours for _, kind in seen} - set(seen))
    for number in range(2):
        (colour, kind), (wrong_colour, wrong_kind) = rng.choice(seen), rng.choice(absent)
        texts = {
            "entailment": f"there is a {colour} {kind}",
            "contradiction": f"there is a {wrong_colour} {wrong_kind}",
            "neutral": f"the {colour} {kind} is {rng.choice(_UNSEEN)}",
        }
        for label, text in texts.items():
            names = {"pairID": f"{image.id}.jpg#{number}r1{label[0]}", "Flickr30K_ID": image.id}
            yield {"gold_label": label, "sentence2": text, **names}
