"""Hard negatives: the wrong texts of an image, and the wrong images of a text, that a model takes for right ones.

ROSITA mines them while it trains (its section on retrieval; ``NEG_RANDSIZE`` candidates, ``NEG_HARDSIZE`` kept): of
candidates drawn at random, those with the best matching scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlrun import DataError
from vlrun.blocks.predictions import listed
from vlrun.files import atomic_write, read_arrays
from vlrun.foreign.json import parse_json
from vlrun.seeds import derive_seed, example_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlrun_retrieval.candidates import CandidatePool

AnchorKind = Literal["image", "text"]


@dataclass(frozen=True)
class HardNegatives:
    """The hardest K candidates of every image and every text of a pool, hardest first; one may occur twice.

    Attributes:
        texts_of_images: (I, K) rows of texts, none of them of that image.
        images_of_texts: (T, K) rows of images, none of them that of the text; (T, 0) where nobody asked for them.
    """

    texts_of_images: NDArray[np.int32]
    images_of_texts: NDArray[np.int32]


def draw_candidates(
    pool: CandidatePool, seed: int, epoch: int, kind: AnchorKind, anchor: int, count: int
) -> NDArray[np.int64]:
    """``count`` rows of texts, drawn uniformly and with replacement from those of other images than the anchor's.

    Args:
        kind: what ``anchor`` is a row of. For a text, each drawn text stands for its image, as in ROSITA.

    Raises:
        DataError: all texts are of one image.
    """
    own = anchor if kind == "image" else int(pool.owner[anchor])
    if len(pool.texts_of(own)) == len(pool.texts):
        raise DataError(f"there are no negatives: all {len(pool.texts):,} texts are of image '{pool.image_ids[own]}'")
    rng = example_rng(derive_seed(seed, "negatives", kind), epoch, anchor)
    drawn = rng.integers(len(pool.texts), size=count)
    while (wrong := pool.owner[drawn] == own).any():
        drawn[wrong] = rng.integers(len(pool.texts), size=int(wrong.sum()))
    return drawn


def hardest(scores: NDArray[Any], keep: int) -> NDArray[np.int64]:
    """Columns of the ``keep`` best scores of each row, best first; of equal ones the first. (N, C) -> (N, keep)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :keep]


def write_negatives(path: Path, pool: CandidatePool, negatives: HardNegatives, facts: Mapping[str, Any]) -> None:
    """Writes them with the ids of the pool, so that they fit any file with the same images and texts; atomically.

    Args:
        facts: where they come from; JSON-ready.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with atomic_write(path, "wb") as file:
            np.savez_compressed(
                file,
                image_ids=np.array(pool.image_ids),
                text_ids=np.array(pool.text_ids),
                texts_of_images=negatives.texts_of_images.astype(np.int32),
                images_of_texts=negatives.images_of_texts.astype(np.int32),
                facts=np.array(json.dumps(dict(facts))),
            )
    except OSError as error:
        raise DataError(f"{path}: cannot write hard negatives: {error.strerror}") from error


def read_facts(path: Path) -> dict[str, Any]:
    """What ``write_negatives`` was told about them; errors as of ``read_negatives``."""
    try:
        facts: dict[str, Any] = parse_json(str(_read(path, ["facts"])["facts"]))
    except ValueError as error:
        raise DataError(f"{path}: damaged: it does not say where it comes from") from error
    return facts


def read_negatives(path: Path, pool: CandidatePool) -> HardNegatives:
    """The hard negatives of ``pool`` in a file of ``write_negatives``; its order of images and texts may be another.

    Raises:
        DataError: the file is missing or damaged, lacks images or texts of the pool, or has ones that it does not know.
    """
    arrays = _read(path, ["image_ids", "text_ids", "texts_of_images", "images_of_texts"])
    images, image_problems = _rows(arrays["image_ids"].tolist(), pool.image_ids, path, "images")
    texts, text_problems = _rows(arrays["text_ids"].tolist(), pool.text_ids, path, "texts")
    if problems := image_problems + text_problems:
        raise DataError([*problems, "mine negatives of the very data that is trained on: runner mine-negatives RUN"])
    sizes = (len(arrays["texts_of_images"]), len(arrays["images_of_texts"]))
    if sizes != (len(images), len(texts)):
        raise DataError(f"{path}: damaged: negatives of {sizes} images and texts, not of {(len(images), len(texts))}")
    for name, count in (("texts_of_images", len(texts)), ("images_of_texts", len(images))):
        table = arrays[name]
        if table.ndim != 2 or table.dtype.kind != "i" or (table < 0).any() or (table >= count).any():
            raise DataError(f"{path}: damaged: '{name}' points at things that are not there")
    # rows of the file -> rows of the pool, for what is pointed at; and the order of the pool, for what points
    to_image, to_text = np.argsort(images), np.argsort(texts)
    negatives = HardNegatives(
        to_text[arrays["texts_of_images"][images]].astype(np.int32),
        to_image[arrays["images_of_texts"][texts]].astype(np.int32),
    )
    own = pool.owner[negatives.texts_of_images] == np.arange(len(pool.image_ids))[:, None]
    if own.any() or (negatives.images_of_texts == pool.owner[:, None]).any():
        raise DataError(f"{path}: a negative belongs to its own image; the file was made for other annotations")
    return negatives


def _rows(in_file: list[str], wanted: tuple[str, ...], path: Path, unit: str) -> tuple[NDArray[np.int64], list[str]]:
    """Where in the file each wanted id is, and what keeps them from being the same."""
    places = {name: row for row, name in enumerate(in_file)}
    missing = [name for name in wanted if name not in places]
    known = set(wanted)
    problems = listed(missing, "have no negatives", split=path.name, unit=unit)
    problems += listed((name for name in in_file if name not in known), "are unknown", split=path.name, unit=unit)
    if len(places) != len(in_file):
        problems.append(f"{path}: some ids of {unit} are there twice")
    rows = [] if problems else [places[name] for name in wanted]
    return np.array(rows, np.int64), problems


def _read(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(path, names)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; `runner mine-negatives RUN` makes one") from error
