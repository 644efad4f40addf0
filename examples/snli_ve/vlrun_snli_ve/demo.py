"""Statements about the demo's images, in the official file format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlrun import DemoImage
from vlrun.seeds import derive_seed

_SPLITS = {"train": "train", "val": "dev", "test": "test"}
_TEXTS = ("something is {}", "there is something {}", "the picture shows something {}")
_USUAL, _RARE = "striped", "dotted"
_UNSEEN = ("heavy", "new", "old", "soft")  # what no picture tells


def write_statements(folder: Path, images: Sequence[DemoImage]) -> None:
    """Writes a file for each split, with statements about every image that shows one of two patterns.

    Each statement is as often true as false. One pattern is asked for twice as often as the other, so that looking
    without reading helps a little, and learning starts from that: where nothing helps but both, some networks of this
    size never begin.
    """
    for split, name in _SPLITS.items():
        rows = [row for image in images if image.split == split for row in _rows(image)]
        (folder / f"snli_ve_{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _rows(image: DemoImage) -> Iterator[dict[str, str]]:
    rng = random.Random(derive_seed("snli-ve", image.id))  # noqa: S311
    shown = {found.attributes["pattern"] for found in image.objects} & {_USUAL, _RARE}
    said = [(text, _USUAL) for text in _TEXTS]
    said += [(text, _RARE) for text in rng.sample(_TEXTS, rng.choice((1, 2)))]
    said += [(text, rng.choice(_UNSEEN)) for text in rng.sample(_TEXTS, 2)]
    for number, (text, word) in enumerate(said if len(shown) == 1 else ()):
        label = "neutral" if word in _UNSEEN else "entailment" if word in shown else "contradiction"
        names = {"pairID": f"{image.id}.jpg#{number}r1{label[0]}", "Flickr30K_ID": image.id}
        yield {"gold_label": label, "sentence2": text.format(word), **names}
