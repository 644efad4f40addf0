"""The outline of each kind of thing: a polygon that touches its box on all four sides."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin

from vlrun_demo.scene import Thing

Point = tuple[float, float]

_ROBOT = (
    (0.25, 0.0), (0.75, 0.0), (0.75, 0.3), (0.6, 0.3), (0.6, 0.36), (1.0, 0.36), (1.0, 0.7), (0.84, 0.7), (0.84, 0.5),
    (0.8, 0.5), (0.8, 1.0), (0.56, 1.0), (0.56, 0.8), (0.44, 0.8), (0.44, 1.0), (0.2, 1.0), (0.2, 0.5), (0.16, 0.5),
    (0.16, 0.7), (0.0, 0.7), (0.0, 0.36), (0.4, 0.36), (0.4, 0.3), (0.25, 0.3),
)  # fmt: skip
_CORNERS = {
    "robot": _ROBOT,
    "box": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "triangle": ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
}
_CAT_EARS = ((0.08, 0.0), (0.42, 0.2), (0.58, 0.2), (0.92, 0.0))
_GHOST_HEM = ((1.0, 1.0), (0.83, 0.88), (0.67, 1.0), (0.5, 0.88), (0.33, 1.0), (0.17, 0.88), (0.0, 1.0))


def outline(thing: Thing) -> list[Point]:
    """The polygon of ``thing``, in pixels."""
    x1, y1, x2, y2 = thing.box
    return [(x1 + x * (x2 - x1), y1 + y * (y2 - y1)) for x, y in unit_outline(thing.kind)]


@cache
def unit_outline(kind: str) -> tuple[Point, ...]:
    """The polygon of a kind in the unit square, y downwards."""
    if kind == "ghost":
        return (*_arc(pi, 2 * pi, 12), *_GHOST_HEM)
    if kind == "cat":
        return (*_CAT_EARS, *_arc(-0.12 * pi, 1.12 * pi, 18))
    if kind == "star":
        return _fitted([_polar(step * pi / 5 - pi / 2, 0.45 if step % 2 else 1.0) for step in range(10)])
    if kind == "heart":
        return _fitted([_heart(2 * pi * step / 32) for step in range(32)])
    if kind in ("ball", "ring"):
        return _fitted([_polar(2 * pi * step / 32, 1.0) for step in range(32)])
    return _CORNERS[kind]


def _polar(angle: float, radius: float) -> Point:
    return radius * cos(angle), radius * sin(angle)


def _arc(start: float, end: float, steps: int) -> tuple[Point, ...]:
    """Points of the circle that fills the unit square."""
    angles = [start + (end - start) * step / steps for step in range(steps + 1)]
    return tuple((0.5 + 0.5 * cos(angle), 0.5 + 0.5 * sin(angle)) for angle in angles)


def _heart(angle: float) -> Point:
    wave = 13 * cos(angle) - 5 * cos(2 * angle) - 2 * cos(3 * angle) - cos(4 * angle)
    return 16 * sin(angle) ** 3, -wave


def _fitted(points: list[Point]) -> tuple[Point, ...]:
    """``points`` moved and scaled until they touch all sides of the unit square."""
    xs, ys = zip(*points, strict=True)
    wide, tall = max(xs) - min(xs), max(ys) - min(ys)
    return tuple(((x - min(xs)) / wide, (y - min(ys)) / tall) for x, y in points)
