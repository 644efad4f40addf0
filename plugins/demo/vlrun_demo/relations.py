"""Where things are, seen from each other."""

from __future__ import annotations

from collections.abc import Iterator

from vlrun_demo.scene import Box, Scene

RELATIONS = ("left of", "right of", "above", "below", "next to")

CLEAR = 0.1  # of the picture's width or height: differences below it are nothing to speak of
_NEAR = 0.12


def clear_relations(scene: Scene) -> Iterator[tuple[int, str, int]]:
    """Finds every clear relation between two things, by their positions in the scene."""
    size = scene.width, scene.height
    for subject, thing in enumerate(scene.things):
        for other, anchor in enumerate(scene.things):
            for name in RELATIONS if other != subject else ():
                if holds(name, thing.box, anchor.box, size, CLEAR):
                    yield subject, name, other


def holds(name: str, box: Box, anchor: Box, size: tuple[int, int], margin: float = 0.0) -> bool:
    """Whether ``box`` stands in a relation to ``anchor`` in a picture of ``size`` (width, height).

    Args:
        margin: by how much at least; with 0, what a generous reader would let pass.
    """
    if name == "next to":
        return _gap(box, anchor) / min(size) <= _NEAR - margin / 2
    (x, y), (anchor_x, anchor_y) = centre(box), centre(anchor)
    dx, dy = (x - anchor_x) / size[0], (y - anchor_y) / size[1]
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[name] > margin


def centre(box: Box) -> tuple[float, float]:
    """The middle of a box, (x, y) in pixels."""
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2


def _gap(a: Box, b: Box) -> float:
    """Distance between two boxes, in pixels."""
    dx = max(a[0] - b[2], b[0] - a[2], 0.0)
    dy = max(a[1] - b[3], b[1] - a[3], 0.0)
    return float((dx * dx + dy * dy) ** 0.5)
