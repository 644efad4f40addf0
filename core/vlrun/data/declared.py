"""What weights are declared to have seen: rules over the names of images, and single ids.

A rule is a pattern such as ``COCO_train2014_*`` or ``visual-genome:*``, compared with every name of an image. Two words
make it honest: ``possibly PATTERN`` where only some of these images were seen and nobody says which; ``PATTERN except
OTHER`` where ``OTHER`` is a pattern again, or ``DATASET/SPLIT``: the images that this split lists.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

from vlrun.data.identities import Identities, collection_of

_WILDCARD = re.compile(r"[*?\[]")
_RULE = re.compile(r"(?P<possibly>possibly )?(?P<pattern>\S+)(?: except (?P<exception>\S+))?")
_SPLIT = re.compile(r"(?P<dataset>[^/]+)/(?P<split>[^/]+)")

Split = tuple[str, str]
"""Name of a dataset, and of its split."""


@dataclass(frozen=True)
class Seen:
    """How many of some images were seen for certain, and how many more perhaps."""

    certainly: int
    possibly: int


@dataclass(frozen=True)
class _Rule:
    text: str
    is_possible: bool
    pattern: str
    exception: str | None

    @property
    def split(self) -> Split | None:
        """The split whose images are excepted."""
        match = _SPLIT.fullmatch(self.exception or "")
        return (match["dataset"], match["split"]) if match else None

    @property
    def collection(self) -> str | None:
        return collection_of(_example_of(self.pattern))

    @property
    def excepted_collection(self) -> str | None:
        return None if self.exception is None or self.split else collection_of(_example_of(self.exception))


def unreadable(entries: Sequence[str]) -> list[str]:
    """Those entries that look like rules and are none."""
    return [entry for entry in entries if re.search(r"\s", entry) and _rule(entry) is None]


class Declared:
    """Rules and single ids, as the header of imported weights has them under ``pretraining_sets``."""

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = entries
        self._rules = [rule for entry in entries if (rule := _rule(entry))]
        self._single = [entry for entry in entries if _rule(entry) is None]

    def __str__(self) -> str:
        """In a few words: the rules, and how many single images."""
        counted = [f"{len(self._single):,} images by id"] if self._single else []
        return ", ".join([*(rule.text for rule in self._rules), *counted])

    @property
    def splits(self) -> set[Split]:
        """Whose lists of images decide what was seen."""
        return {rule.split for rule in self._rules if rule.split}

    def collections_beside(self, collection: str) -> set[str]:
        """Collections of what was seen, other than ``collection``, that may hold images of it."""
        ruled = {rule.collection for rule in self._rules if rule.excepted_collection != collection}
        return {name for name in {*ruled, *map(collection_of, self._single)} if name is not None} - {collection}

    def seen(self, images: Collection[str], identities: Identities, lists: Mapping[Split, Collection[str]]) -> Seen:
        """How many of ``images`` (ids, one for each image) were seen.

        Args:
            lists: keys of the images that splits list, of those ``splits`` that can be read.
        """
        single = {*self._single, *map(identities.key, self._single)}  # ids as they are: older files have bare numbers
        rules = [(rule, *_matchers(rule)) for rule in self._rules]
        certainly = possibly = 0
        for image in images:
            key = identities.key(image)
            if image in single or key in single or image.rpartition(":")[2] in single:
                certainly += 1
                continue
            names = [*identities.names(image), image.rpartition(":")[2]]
            answers = set()
            for rule, pattern, exception in rules:
                if rule.collection == "coco" and _lacks_part(key, names):
                    answers.add("maybe")
                elif any(map(pattern.match, names)):
                    excepted = _is_excepted(rule, exception, key, names, identities, lists)
                    answers.add("no" if excepted else "maybe" if excepted is None or rule.is_possible else "yes")
            certainly += "yes" in answers
            possibly += "yes" not in answers and "maybe" in answers
        return Seen(certainly, possibly)


def _rule(entry: str) -> _Rule | None:
    match = _RULE.fullmatch(entry)
    if match is None or not (match["possibly"] or match["exception"] or _WILDCARD.search(entry)):
        return None
    return _Rule(entry, match["possibly"] is not None, match["pattern"], match["exception"])


def _matchers(rule: _Rule) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    exception = None if rule.exception is None or rule.split else re.compile(translate(rule.exception))
    return re.compile(translate(rule.pattern)), exception


def _is_excepted(
    rule: _Rule,
    exception: re.Pattern[str] | None,
    key: str,
    names: Sequence[str],
    identities: Identities,
    lists: Mapping[Split, Collection[str]],
) -> bool | None:
    """Whether the exception of a rule holds an image; None where that is not known."""
    if rule.split:
        return key in lists[rule.split] if rule.split in lists else None
    if exception is None:
        return False
    if any(map(exception.match, names)):
        return True
    return False if rule.excepted_collection in (None, *identities.joined) else None


def _lacks_part(key: str, names: Sequence[str]) -> bool:
    """Whether this is an image of COCO of which no name says the part, as those of 2017 do not."""
    return collection_of(key) == "coco" and not any(name.upper().startswith("COCO_") for name in names)


def _example_of(pattern: str) -> str:
    """A name that the pattern fits, as far as its collection goes."""
    coco = re.match(r"COCO_", pattern, re.IGNORECASE)
    return "coco:" if coco else pattern
