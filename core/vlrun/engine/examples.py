"""``examples/<task>_<split>.json``: a handful of predictions, right ones and wrong ones, for people to look at."""

from __future__ import annotations

import base64
import hashlib
import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from vlrun.blocks.pictures import MARKS, MarkedBox, thumbnail
from vlrun.errors import DataError, UsageError
from vlrun.interfaces.cases import Case, View
from vlrun.interfaces.examples import PICTURE_SUFFIXES, canonical_image_id

SHOWN = 4
"""Cases of each kind: right ones, wrong ones, and those that nobody can judge."""

KINDS = ("wrong", "right", "unjudged")

_RIGHT_FROM = 0.5

Note = Callable[[str], None]


class Pictures:
    """The pictures below a folder, by canonical image id; the folder is walked once, when it is first asked."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._paths

    def path(self, image_id: str) -> Path | None:
        """Where the picture of an image is; None where there is none."""
        return self._paths.get(image_id)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for folder, _, names in os.walk(self.folder) if self.folder is not None else ():
            for name in names:
                if name.lower().endswith(PICTURE_SUFFIXES):
                    paths.setdefault(canonical_image_id(name), Path(folder, name))
        return paths


class Chooser:
    """Keeps a few cases of each kind, by a hash of their ids, so that neither order nor a resume changes the choice.

    Cases with a picture go first.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._kept: dict[tuple[str, str], list[tuple[bool, bytes, int, Case]]] = {}
        self._numbers = count()  # so that two cases are never compared

    def passing(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The same cases, looked at in passing."""
        for case in cases:
            self._look_at(case)
            yield case

    def chosen(self) -> Iterator[tuple[str, Case]]:
        """(kind, case), question by question, wrong ones first."""
        for (_, kind), kept in sorted(self._kept.items(), key=lambda item: (item[0][0], KINDS.index(item[0][1]))):
            yield from ((kind, case) for *_, case in sorted(kept, reverse=True))

    def _look_at(self, case: Case) -> None:
        if not (case.texts or case.views):
            return
        kind = "unjudged" if case.credit is None else "right" if case.credit >= _RIGHT_FROM else "wrong"
        has_picture = any(view.image_id in self._pictures for view in case.views)
        digest = hashlib.blake2b(case.id.encode(), digest_size=8).digest()
        kept = self._kept.setdefault((case.question, kind), [])
        heapq.heappush(kept, (has_picture, digest, next(self._numbers), case))
        if len(kept) > SHOWN:
            heapq.heappop(kept)


def example_record(kind: str, case: Case, pictures: Pictures, note: Note) -> dict[str, Any]:
    """What the file says about a case, with its pictures in it."""
    return {
        "id": case.id,
        "question": case.question,
        "kind": kind,
        "credit": case.credit,
        "texts": [*case.texts],
        "predicted": case.predicted,
        "right": case.right,
        "images": [
            {"id": view.image_id, "caption": view.caption, "picture": _picture(view, pictures, note)}
            for view in case.views
        ],
    }


def _picture(view: View, pictures: Pictures, note: Note) -> str | None:
    """A small JPEG with the boxes drawn on it, as a data address; None where there is no picture."""
    path = pictures.path(view.image_id)
    if path is None:
        return None
    boxes = [MarkedBox(box, mark) for mark, box in zip(MARKS, (view.right, view.predicted), strict=True) if box]
    try:
        return "data:image/jpeg;base64," + base64.b64encode(thumbnail(path, boxes, view.size)).decode()
    except (DataError, UsageError) as error:  # a report without a picture is better than none
        note(f"the report shows no picture of {view.image_id}: {error}")
        return None
