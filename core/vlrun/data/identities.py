"""Which ids name one image: spellings of COCO's names, and the table that joins COCO, Visual Genome and Flickr."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vlrun.errors import DataError
from vlrun.files import atomic_write
from vlrun.foreign.json import parse_json

NAME = "image-identities"
"""What ``runner data build`` makes such a table of."""

FORMAT, VERSION = "vlrun image identities", 1

COLLECTIONS = {"coco": "COCO", "visual-genome": "Visual Genome", "flickr": "Flickr", "sbu": "SBU captions"}
"""Collections whose photographs all come from Flickr, so that one may be in several; how messages call them."""

JOINED = frozenset({"coco", "visual-genome", "flickr"})
"""Those that a table joins; which photographs SBU captions has nobody publishes in a form that we read."""

_MOST_DIGITS = 20
"""Of a number that a collection gives an image; Python turns no number of thousands of digits into one."""

_COCO_NAME = re.compile(r"(?:coco_(?:train|val|test)20\d\d_)?(\d{12})", re.IGNORECASE)


def qualified(image_id: str, collection: str | None) -> str:
    """An id that says by itself which image it means: a bare number gets the collection that has numbered it."""
    is_number = image_id.isdecimal() and len(image_id) <= _MOST_DIGITS
    bare = collection is not None and is_number and not _COCO_NAME.fullmatch(image_id)
    return f"{collection}:{int(image_id)}" if bare else image_id


def image_key(image_id: str) -> str:
    """What the spellings of one id have in common: ``COCO_val2014_000000000042`` and ``000000000042`` are one image."""
    match = _COCO_NAME.fullmatch(image_id)
    return f"coco:{int(match.group(1))}" if match else image_id


def collection_of(image_id: str) -> str | None:
    """The key in ``COLLECTIONS`` of a qualified id; None where its images cannot be in another one, or nobody knows."""
    collection = image_key(image_id).partition(":")[0]
    return collection if collection in COLLECTIONS else None


class Identities:
    """The ids of each image, as far as they are known.

    Attributes:
        path, sha256: of the table; None and empty without one, when only spellings are known to be equal.
    """

    def __init__(self, groups: Iterable[Sequence[str]] = (), path: Path | None = None, sha256: str = "") -> None:
        """Looks images up by any of their names.

        Args:
            groups: the names of one image each; no name is in two of them.
        """
        self.path, self.sha256 = path, sha256
        self._groups: Mapping[str, Sequence[str]] = {image_key(name): group for group in groups for name in group}

    @property
    def joined(self) -> frozenset[str]:
        """Collections among which images are recognised."""
        return JOINED if self.path is not None else frozenset()

    @property
    def label(self) -> str:
        """File name and hash, for protocols."""
        return f"{self.path.name} ({self.sha256[:12]})" if self.path is not None else "no table"

    def key(self, image_id: str) -> str:
        """The same for all ids of one image, and another for each image."""
        key = image_key(image_id)
        group = self._groups.get(key)
        return key if group is None else image_key(group[0])

    def names(self, image_id: str) -> Iterator[str]:
        """All names that are known of an image, the given one first."""
        key = image_key(image_id)
        yield image_id
        yield key
        yield from self._groups.get(key, ())


def read_identities(path: Path) -> Identities:
    """The table at ``path``, as ``write_identities`` makes it.

    Raises:
        DataError: it is missing or damaged, or no such table.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    rows = _rows(path, content)
    header = next(rows, None)
    if not isinstance(header, dict) or (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{path}: not a table of image identities; make it with `runner data build {NAME}`")
    groups: list[list[str]] = []
    seen: dict[str, int] = {}
    for number, group in enumerate(rows, start=2):
        if not isinstance(group, list) or len(group) < 2 or not all(isinstance(name, str) for name in group):
            raise DataError(f"{path}:{number}: expected a list of two or more names of one image")
        for name in group:
            first = seen.setdefault(image_key(name), number)
            if first != number:
                raise DataError(f"{path}:{number}: '{name}' is on line {first} already")
        groups.append(group)
    if len(groups) != header.get("groups"):
        raise DataError(
            f"{path}: it should list {header.get('groups')} images and lists {len(groups):,}: was it cut off? "
            f"Make it again with `runner data build {NAME}`"
        )
    return Identities(groups, path, hashlib.sha256(content).hexdigest())


def write_identities(path: Path, groups: Sequence[Sequence[str]], sources: Sequence[Mapping[str, object]]) -> None:
    """Writes a table: a line about its sources, then one line per image with all its names.

    Args:
        groups: the names of one image each, in the order of the file.
        sources: what the names were taken from, files with their hashes.
    """
    header = {"format": FORMAT, "version": VERSION, "groups": len(groups), "sources": list(sources)}
    with atomic_write(path) as file:
        for line in (header, *map(list, groups)):
            file.write(json.dumps(line) + "\n")


def _rows(path: Path, content: bytes) -> Iterator[object]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield parse_json(line)
        except ValueError as error:  # also what is not UTF-8
            raise DataError(f"{path}:{number}: not readable JSON: was the file cut off?") from error
