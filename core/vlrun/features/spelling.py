"""Guessing which stored image a user means by another spelling of its id."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHORTEST_COCO_NUMBER = 6  # shorter numbers at the end of a name, as in NLVR2's dev-850-0-img0, count something else


def likely_spelling(image_id: str, known: Iterable[str]) -> str | None:
    """The id in ``known`` that names the same image: other punctuation or case, or the same COCO number.

    ``58350``, ``COCO_val2014_000000058350`` and ``000000058350`` are one image.
    """
    plain, number = _plain(image_id), _number(image_id)
    by_number = None
    for candidate in known:
        if _plain(candidate) == plain:
            return candidate
        if by_number is None and number is not None and _number(candidate) == number:
            by_number = candidate
    return by_number


def _plain(image_id: str) -> str:
    without_suffix = re.sub(r"\.(npz|npy|jpe?g|png)$", "", image_id.casefold())
    return re.sub(r"[\W_]", "", without_suffix)


def _number(image_id: str) -> int | None:
    digits = re.search(r"\d+$", image_id)
    if digits is None or not (image_id.isdecimal() or len(digits.group()) >= _SHORTEST_COCO_NUMBER):
        return None
    return int(digits.group())
