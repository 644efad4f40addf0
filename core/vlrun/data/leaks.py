"""Images that training and evaluation share, counted before the first step and marked on every score they touch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

_COCO_NAME = re.compile(r"(?:coco_(?:train|val|test)20\d\d_)?(\d{12})", re.IGNORECASE)

_WILDCARD = re.compile(r"[*?\[]")


def image_key(image_id: str) -> str:
    """What two ids of one image have in common.

    ``COCO_val2014_000000000042`` and ``000000000042`` are one image of COCO. That an image of Visual Genome is also one
    of COCO is not in its id; Visual Genome's image_data.json says so.
    """
    match = _COCO_NAME.fullmatch(image_id)
    return f"coco:{int(match.group(1))}" if match else image_id


@dataclass(frozen=True)
class Leak:
    """Images of an evaluation split that the model has seen.

    Attributes:
        task, split: what is evaluated.
        images: distinct images of the split.
        seen: how many of them, and by what: the training data of a task, or the pre-training of the weights.
    """

    task: str
    split: str
    images: int
    seen: Mapping[str, int]

    @property
    def mark(self) -> str:
        """For the protocol of a score."""
        return ", ".join(f"{count:,} of {self.images:,} images seen in {where}" for where, count in self.seen.items())

    def line(self) -> str:
        return f"{self.task} {self.split}: {self.mark}"


def find_leaks(
    training: Mapping[str, Collection[str]],
    evaluation: Mapping[tuple[str, str], Collection[str]],
    pretraining: Sequence[str] = (),
) -> list[Leak]:
    """Every evaluation split that shares images with training.

    Args:
        training: label of a task -> ids of its training images.
        evaluation: (label, split) -> ids of its images.
        pretraining: image ids that the weights were declared to have seen: patterns such as ``COCO_train2014_*``, and
            single ids, of which there may be a hundred thousand.
    """
    trained = {f"training of {label}": {image_key(image) for image in ids} for label, ids in training.items()}
    patterns, single = _told_apart(pretraining)
    declared = re.compile("|".join(map(translate, patterns))) if patterns else None
    seen_before = {image_key(image) for image in single}
    leaks = []
    for (task, split), ids in evaluation.items():
        images = {image_key(image): image for image in ids}
        seen = {where: len(images.keys() & keys) for where, keys in trained.items()}
        if pretraining:
            seen[f"pre-training ({describe_declared(pretraining)})"] = sum(
                key in seen_before or bool(declared and declared.match(image)) for key, image in images.items()
            )
        if found := {where: count for where, count in seen.items() if count}:
            leaks.append(Leak(task, split, len(images), found))
    return leaks


def describe_declared(pretraining: Sequence[str]) -> str:
    """What weights were declared to have seen, in a few words: its patterns, and how many single images."""
    patterns, single = _told_apart(pretraining)
    return ", ".join([*patterns, *([f"{len(single):,} images by id"] if single else [])])


def _told_apart(declared: Sequence[str]) -> tuple[list[str], list[str]]:
    """Patterns and single ids."""
    patterns = [entry for entry in declared if _WILDCARD.search(entry)]
    return patterns, [entry for entry in declared if not _WILDCARD.search(entry)]


def evaluation_images(evaluation: Iterable[Collection[str]]) -> set[str]:
    """Keys of all images of all evaluation splits: what a cleaned training set leaves out."""
    return {image_key(image) for ids in evaluation for image in ids}
