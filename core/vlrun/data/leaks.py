"""Images that training and evaluation share, counted before the first step and marked on every score they touch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vlrun.data.declared import Declared, Split
from vlrun.data.identities import COLLECTIONS, Identities, collection_of

SPELLINGS = Identities()
"""No table: only spellings of one id are known to be equal."""


@dataclass(frozen=True)
class Leak:
    """Images of an evaluation split that the model has seen.

    Attributes:
        task, split: what is evaluated.
        images: distinct images of the split.
        seen: how many of them, and by what: the training data of a task, or the pre-training of the weights.
        possibly: the same of images that may have been seen, where nobody says which were.
    """

    task: str
    split: str
    images: int
    seen: Mapping[str, int]
    possibly: Mapping[str, int] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """For the protocol of a score."""
        counts = [f"{count:,} of {self.images:,} images seen in {where}" for where, count in self.seen.items()]
        counts += [f"{count:,} of {self.images:,} possibly seen in {where}" for where, count in self.possibly.items()]
        return ", ".join(counts)

    def line(self) -> str:
        """Task, split and mark, for the header."""
        return f"{self.task} {self.split}: {self.mark}"


def find_leaks(
    training: Mapping[str, Collection[str]],
    evaluation: Mapping[tuple[str, str], Collection[str]],
    pretraining: Sequence[str] = (),
    *,
    identities: Identities = SPELLINGS,
    lists: Mapping[Split, Collection[str]] | None = None,
) -> list[Leak]:
    """Every evaluation split that shares images with training.

    Args:
        training: label of a task -> ids of its training images, qualified.
        evaluation: (label, split) -> ids of its images, qualified.
        pretraining: what the weights were declared to have seen: rules such as ``COCO_train2014_*``, and single ids, of
            which there may be a hundred thousand.
        lists: keys of the images of splits that those rules name, where they can be read.
    """
    trained = {f"training of {label}": set(map(identities.key, ids)) for label, ids in training.items()}
    declared = Declared(pretraining)
    leaks = []
    for (task, split), ids in evaluation.items():
        images = {identities.key(image): image for image in ids}
        seen = {where: len(images.keys() & keys) for where, keys in trained.items()}
        possibly: dict[str, int] = {}
        if pretraining:
            before, where = declared.seen(images.values(), identities, lists or {}), f"pre-training ({declared})"
            seen[where], possibly[where] = before.certainly, before.possibly
        leak = Leak(task, split, len(images), _counted(seen), _counted(possibly))
        if leak.seen or leak.possibly:
            leaks.append(leak)
    return leaks


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
    return {where: count for where, count in counts.items() if count}


def meetings(
    training: Mapping[str, Collection[str]],
    evaluation: Mapping[tuple[str, str], Collection[str]],
    pretraining: Sequence[str] = (),
) -> dict[tuple[str, str], set[frozenset[str]]]:
    """Pairs of collections that may share images without showing it in their ids, per evaluation split."""
    trained = {name for ids in training.values() for name in collections_in(ids)}
    declared = Declared(pretraining)
    return {
        place: {
            frozenset((ours, theirs))
            for ours in collections_in(ids)
            for theirs in {*trained, *declared.collections_beside(ours)} - {ours}
        }
        for place, ids in evaluation.items()
    }


def collections_in(ids: Iterable[str]) -> set[str]:
    """The collections that the images of these ids are known to belong to."""
    return {name for name in map(collection_of, ids) if name is not None}


def describe_pairs(pairs: Iterable[Collection[str]]) -> str:
    """``COCO and Visual Genome, COCO and Flickr``: in the order of ``COLLECTIONS``."""
    order = list(COLLECTIONS)
    ranked = sorted(sorted(map(order.index, pair)) for pair in pairs)
    return ", ".join(" and ".join(COLLECTIONS[order[number]] for number in pair) for pair in ranked)


def describe_declared(pretraining: Sequence[str]) -> str:
    """What weights were declared to have seen, in a few words: its rules, and how many single images."""
    return str(Declared(pretraining))


def evaluation_images(evaluation: Iterable[Collection[str]], identities: Identities = SPELLINGS) -> set[str]:
    """Keys of all images of all evaluation splits: what a cleaned training set leaves out."""
    return {identities.key(image) for ids in evaluation for image in ids}
