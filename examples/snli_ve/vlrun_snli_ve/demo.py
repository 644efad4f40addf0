"""Statements about the demo's images, in the official file format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from vlrun import DemoImage
from vlrun.seeds import derive_seed

_SPLITS = {"train": "train", "val": "dev", "test": "test"}
_UNSEEN = ("heavy", "new", "old", "soft")  # what no picture tells


def write_statements(folder: Path, images: Sequence[DemoImage]) -> None:
    """Writes a file for each split, with as many statements of each label about every image."""
    kinds = {found.name for image in images for found in image.objects}
    for split, name in _SPLITS.items():
        rows = [row for image in images if image.split == split for row in _rows(image, kinds)]
        (folder / f"snli_ve_{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _rows(image: DemoImage, kinds: Set[str]) -> Iterator[dict[str, str]]:
    rng = random.Random(derive_seed("snli-ve", image.id))  # noqa: S311
    seen = {found.name for found in image.objects}
    for number in range(4):
        kind, other = rng.choice(sorted(seen)), rng.choice(sorted(kinds - seen))
        for label, text in {
            "entailment": f"there is a {kind}",
            "contradiction": f"there is a {other}",
            "neutral": f"the {kind} is {rng.choice(_UNSEEN)}",
        }.items():
            names = {"pairID": f"{image.id}.jpg#{number}r1{label[0]}", "Flickr30K_ID": image.id}
            yield {"gold_label": label, "sentence2": text, **names}
