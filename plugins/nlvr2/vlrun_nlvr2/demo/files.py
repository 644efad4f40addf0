"""Demo data as the official files of NLVR2: one JSON object a line, although they are called .json."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrun import DemoImage
from vlrun.seeds import derive_seed
from vlrun_demo.language import plural_of
from vlrun_nlvr2.demo.pairs import PairSet, Statement, pair_sets

SPLITS_WITH_SUBSETS = ("dev", "test1")

_LEFT_OUT = 0.1  # share of the lines that the makers' checks removed: groups of a sentence are often incomplete
_EXTRA_WORKERS = 4  # who checked each line of dev and test
_DIRECTORIES = 100  # train's sets are divided into so many, for splits that share no image

Row = dict[str, Any]


def write_nlvr2(folder: Path, images: Iterable[DemoImage]) -> None:
    """Writes a file per split, and the balanced and the unbalanced part of those that have them.

    Args:
        images: those of all pairs, as ``pair_images`` asks for them.
    """
    shown = {image.id: image for image in images}
    rows: dict[str, list[Row]] = {}
    for pair_set in pair_sets():
        rows.setdefault(pair_set.split, []).extend(_rows(pair_set, shown))
    for split, split_rows in rows.items():
        _write(folder / f"{split}.json", split_rows)
    for split in SPLITS_WITH_SUBSETS:
        for name, subset in subsets(rows.get(split, [])).items():
            (folder / name).mkdir(exist_ok=True)
            _write(folder / name / f"{name}_{split}.json", subset)


def subsets(rows: list[Row]) -> Mapping[str, list[Row]]:
    """Chooses the lines about pairs that occur more than once: with both labels (balanced), or always with the same."""
    labels: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        labels.setdefault(_pair(row), []).append(row["label"])
    repeated = [row for row in rows if len(labels[_pair(row)]) > 1]
    return {
        "balanced": [row for row in repeated if len(set(labels[_pair(row)])) == 2],
        "unbalanced": [row for row in repeated if len(set(labels[_pair(row)])) == 1],
    }


def _pair(row: Row) -> tuple[str, str]:
    return row["left_url"], row["right_url"]


def _rows(pair_set: PairSet, shown: Mapping[str, DemoImage]) -> Iterator[Row]:
    rng = random.Random(derive_seed("demo", "lines", pair_set.split, pair_set.number))  # noqa: S311
    for sentence_id in rng.sample((0, 1), 2):
        statement = pair_set.statements[sentence_id]
        for pair_id in rng.sample(range(len(pair_set.images)), len(pair_set.images)):
            if rng.random() >= _LEFT_OUT:
                identifier = f"{pair_set.split}-{pair_set.number}-{pair_id}-{sentence_id}"
                left, right = (shown[wanted.id] for wanted in pair_set.images[pair_id])
                yield _row(identifier, pair_set, statement, left, right, rng)


def _row(
    identifier: str, pair_set: PairSet, statement: Statement, left: DemoImage, right: DemoImage, rng: random.Random
) -> Row:
    label = str(statement.is_true(left, right))
    writer, *checkers = rng.sample(range(200), 2 + _EXTRA_WORKERS)
    synset = statement.about.kind or "shape"
    row: Row = {
        "validation": {str(checkers[0]): label},
        "sentence": statement.text,
        "left_url": f"https://demo.example/{left.file_name}",
        "writer": str(writer),
        "label": label,
        "right_url": f"https://demo.example/{right.file_name}",
        "synset": synset,
        "query": f"{plural_of(synset)}{pair_set.number}",
        "identifier": identifier,
    }
    if pair_set.split == "train":
        return {**row, "directory": pair_set.number % _DIRECTORIES}
    return {**row, "extra_validations": {str(worker): label for worker in checkers[1:]}}


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
