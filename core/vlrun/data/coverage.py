"""Whether a store has all images that the splits of a dataset need; checked before anything expensive begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlrun.errors import DataError, first_few
from vlrun.features.pictures import ImageStore
from vlrun.reporting.tables import TextTable

SHOWN_IDS = 5


@dataclass(frozen=True)
class SplitCoverage:
    """How many distinct images a split needs, and which of them the store lacks."""

    split: str
    needed: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """Coverage of all splits that a run uses; ``hint`` is for the case that ids are only written differently."""

    path: Path
    store_size: int
    splits: tuple[SplitCoverage, ...]
    hint: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether the store has all images."""
        return not any(split.missing for split in self.splits)

    @property
    def missing(self) -> frozenset[str]:
        """All ids that a split needs and the store lacks."""
        return frozenset(image_id for split in self.splits for image_id in split.missing)

    def table(self) -> list[str]:
        """Lines of text: one per split, and below them a few of the missing ids."""
        columns = ["split", "images needed", "found", "missing"]
        rows = [
            [split.split, f"{split.needed:,}", f"{split.needed - len(split.missing):,}", f"{len(split.missing):,}"]
            for split in self.splits
        ]
        notes = [
            f"{split.split}: missing {', '.join(first_few(split.missing, SHOWN_IDS))}"
            for split in self.splits
            if split.missing
        ]
        return TextTable(columns, rows, numeric=columns[1:], footnotes=notes).as_lines()

    def error(self) -> DataError:
        """The error for a run that needs every image."""
        store, missing = (f"{count:,} image{'s' * (count != 1)}" for count in (self.store_size, len(self.missing)))
        problems = [f"{self.path} ({store}) lacks {missing} that the data need:"]
        problems += [f"    {line}" for line in self.table()]
        return DataError([*problems, self.hint] if self.hint else problems)


def check_coverage(needed: Mapping[str, Iterable[str]], store: ImageStore) -> Coverage:
    """Compares the images that each split needs (canonical ids, repeats allowed) with those in ``store``."""
    splits = []
    for split, image_ids in needed.items():
        distinct = dict.fromkeys(image_ids)
        splits.append(SplitCoverage(split, len(distinct), tuple(store.missing(distinct))))
    return Coverage(store.path, len(store), tuple(splits), _hint(splits, store))


def _hint(splits: Sequence[SplitCoverage], store: ImageStore) -> str:
    """Says if the first missing image is in the store under another id, or what its ids look like, and what helps."""
    first = next((split.missing[0] for split in splits if split.missing), None)
    if first is None:
        return ""
    if same := store.find_same_image(first):
        remedy = "the ids are written differently."
        if same.isdecimal():
            remedy = "give it the ids of the annotations: runner features build ... --ids numbers ANNOTATIONS"
        return f"the store has '{same}': the same image as '{first}'? Then {remedy}"
    if not any(split.needed > len(split.missing) for split in splits):
        return _examples(first, store)
    return ""


def _examples(first: str, store: ImageStore) -> str:
    ids = store.image_ids()[:3]
    examples = f"the store has ids such as {', '.join(ids)}; the data need {first}."
    if all(image_id.isdecimal() for image_id in ids):
        examples += (
            " If these are Karpathy's running numbers: runner features build ... --ids karpathy dataset_flickr30k.json"
        )
    return examples
