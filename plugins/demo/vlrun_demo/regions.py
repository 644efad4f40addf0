"""Region features of a scene, as a detector might give them: candidate boxes, and what is inside each.

A feature depends on nothing but the scene and the box. It is a fixed random projection of what a box holds (kind,
colour, size and pattern of the things inside, by the share of the box that each takes; how much of the main thing is
inside and where it lies; the background), plus noise, cut at zero as the original bottom-up-attention features are. No
text about the scene has any part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vlrun import RegionFeatures
from vlrun.seeds import derive_seed
from vlrun_demo.scene import ATTRIBUTES, BACKGROUNDS, COLOURS, KINDS, Box, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_REGIONS = 12
FEATURE_SIZE = 128

_JITTER = 0.05  # standard deviation of a box edge, as a share of the thing's width or height
_MISSED = 0.03  # share of things with a bad box only
_NOISE = 0.35  # standard deviation of feature noise; contents have values around 1
_WORD_NOISE = 0.05  # share of regions whose detector class or attribute is wrong
_EDGE = 0.5  # boxes of real detectors end short of the right and lower border
_GEOMETRY = 4.0  # the offset of the main thing is told this loudly
_SCALE = 0.25  # of all features: where they drown the boxes, words of place take three times as long to learn


def region_features(scene: Scene, image_id: str) -> RegionFeatures:
    """Imitates a detector's output for ``scene``: ``NUM_REGIONS`` boxes in no particular order."""
    rng = np.random.Generator(np.random.Philox(derive_seed("demo", scene.image_id, "regions")))
    boxes = _candidates(scene, rng)
    seen = _Seen.of(scene, boxes)
    features = seen.contents(scene) @ _projection() + rng.normal(0.0, _NOISE, (NUM_REGIONS, FEATURE_SIZE))
    classes, attributes = _detector_words(scene, seen, rng)
    confidence = np.clip(seen.match, 0.05, 0.99).astype(np.float32)
    return RegionFeatures(
        image_id,
        (_SCALE * np.maximum(features, 0.0)).astype(np.float32),
        boxes,
        scene.height,
        scene.width,
        classes,
        attributes,
        confidence,
        (confidence * 0.9).astype(np.float32),
    )


def _candidates(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """(NUM_REGIONS, 4): a box near each thing, then parts of things, groups and background; shuffled."""
    boxes = [_near(thing.box, rng, _JITTER) for thing in scene.things]
    for index in np.flatnonzero(rng.random(len(boxes)) < _MISSED):
        boxes[index] = _part(scene.things[index].box, rng)
    while len(boxes) < NUM_REGIONS:
        thing = scene.things[rng.integers(len(scene.things))]
        kind = rng.random()
        if kind < 0.4:
            boxes.append(_part(thing.box, rng))
        elif kind < 0.6:
            other = scene.things[rng.integers(len(scene.things))]
            boxes.append(_around(thing.box, other.box) if other is not thing else _part(thing.box, rng))
        else:
            boxes.append(_anywhere(scene, rng))
    candidates = np.array(boxes, dtype=np.float32)[rng.permutation(len(boxes))]
    candidates[:, 0::2] = candidates[:, 0::2].clip(0, scene.width - _EDGE)
    candidates[:, 1::2] = candidates[:, 1::2].clip(0, scene.height - _EDGE)
    return candidates


def _near(box: Box, rng: np.random.Generator, jitter: float) -> Box:
    x1, y1, x2, y2 = box
    shifts = rng.normal(0.0, jitter, 4) * (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    return _ordered((x1 + shifts[0], y1 + shifts[1], x2 + shifts[2], y2 + shifts[3]))


def _part(box: Box, rng: np.random.Generator) -> Box:
    """A piece of a thing with some of its surroundings, too small to count as having found it."""
    x1, y1, x2, y2 = box
    wide, tall = (x2 - x1) * rng.uniform(0.45, 0.65), (y2 - y1) * rng.uniform(0.45, 0.65)
    left = x1 if rng.random() < 0.5 else x2 - wide
    top = y1 if rng.random() < 0.5 else y2 - tall
    return _near((left, top, left + wide, top + tall), rng, 0.08)


def _around(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _anywhere(scene: Scene, rng: np.random.Generator) -> Box:
    wide, tall = scene.width * rng.uniform(0.1, 0.4), scene.height * rng.uniform(0.1, 0.4)
    x1, y1 = rng.uniform(0, scene.width - wide), rng.uniform(0, scene.height - tall)
    return x1, y1, x1 + wide, y1 + tall


def _ordered(box: Box) -> Box:
    x1, y1, x2, y2 = box
    return min(x1, x2 - 8.0), min(y1, y2 - 8.0), x2, y2


_VALUES = tuple((name, value) for name, values in ATTRIBUTES.items() for value in values)
_CONTENT_SIZE = len(_VALUES) + len(BACKGROUNDS) + 6


@lru_cache(maxsize=1)
def _projection() -> NDArray[Any]:
    """(contents, FEATURE_SIZE), the same for every image: the eye of this world."""
    rng = np.random.Generator(np.random.Philox(derive_seed("demo", "projection")))
    return rng.normal(0.0, 1.0, (_CONTENT_SIZE, FEATURE_SIZE))


@dataclass(frozen=True)
class _Seen:
    """What lies in each of R boxes, for T things.

    Attributes:
        shares: (R, T) share of the box that the thing covers.
        main: (R,) index of the thing that fits the box best.
        inside: (R,) share of the main thing that is inside the box.
        match: (R,) how well the main thing fits, 1 for exactly.
        offsets: (R, 4) how it lies: shift of the centre, and logarithm of its size, relative to the box.
    """

    shares: NDArray[Any]
    main: NDArray[Any]
    inside: NDArray[Any]
    match: NDArray[Any]
    offsets: NDArray[Any]

    @classmethod
    def of(cls, scene: Scene, boxes: NDArray[np.float32]) -> _Seen:
        boxes = boxes.astype(np.float64)
        things = np.array([thing.box for thing in scene.things])
        sides = np.minimum(boxes[:, None, 2:], things[:, 2:]) - np.maximum(boxes[:, None, :2], things[:, :2])
        shared = sides.clip(0).prod(axis=-1)  # (R, T)
        box_areas, thing_areas = _sides(boxes).prod(axis=-1), _sides(things).prod(axis=-1)
        matches = 2 * shared / (box_areas[:, None] + thing_areas)
        rows, main = np.arange(len(boxes)), matches.argmax(axis=1)
        shifts = (_centres(things[main]) - _centres(boxes)) / _sides(boxes)
        scales = np.log(_sides(things[main]) / _sides(boxes))
        return cls(
            shared / box_areas[:, None],
            main,
            shared[rows, main] / thing_areas[main],
            matches[rows, main],
            np.concatenate([shifts, scales], axis=1),
        )

    def contents(self, scene: Scene) -> NDArray[Any]:
        """(R, contents): attribute values and background by share, then coverage, offsets and a constant."""
        values = np.array([[getattr(thing, name) == value for name, value in _VALUES] for thing in scene.things])
        ground = np.array([scene.background == name for name in BACKGROUNDS])
        uncovered = (1.0 - self.shares.sum(axis=1, keepdims=True)).clip(0)
        main_share = self.shares[np.arange(len(self.main)), self.main][:, None]
        offsets = (_GEOMETRY * self.offsets).clip(-2.0, 2.0) * main_share
        constant = np.full_like(uncovered, 0.5)
        return np.concatenate(
            [self.shares @ values, uncovered * ground, self.inside[:, None], offsets, constant], axis=1
        )


def _detector_words(scene: Scene, seen: _Seen, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Class (kind) and attribute (colour) ids of the main thing in each box; some of them are wrong."""
    classes = np.array([KINDS.index(thing.kind) for thing in scene.things])[seen.main]
    attributes = np.array([COLOURS.index(thing.colour) for thing in scene.things])[seen.main]
    wrong = rng.random((2, len(classes))) < _WORD_NOISE
    return (
        np.where(wrong[0], rng.integers(0, len(KINDS), len(classes)), classes).astype(np.int32),
        np.where(wrong[1], rng.integers(0, len(COLOURS), len(attributes)), attributes).astype(np.int32),
    )


def _sides(boxes: NDArray[Any]) -> NDArray[Any]:
    sides: NDArray[Any] = boxes[:, 2:] - boxes[:, :2]
    return sides


def _centres(boxes: NDArray[Any]) -> NDArray[Any]:
    centres: NDArray[Any] = (boxes[:, 2:] + boxes[:, :2]) / 2
    return centres
