"""The numbers of line charts, which ``templates/chart.svg`` draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

Point = tuple[float, float]

_MAX_POINTS = 240  # more could not be told apart at this width
_NUM_STYLES = 6  # the style sheet has a colour and a dash pattern for each


@dataclass(frozen=True)
class Line:
    """A named line of a chart.

    Attributes:
        number: selects colour and dashes.
        is_faint: whether it is only the background of another line.
        has_dots: whether each point is marked.
    """

    name: str
    points: Sequence[Point]
    number: int = 0
    is_faint: bool = False
    has_dots: bool = False

    @property
    def style(self) -> str:
        """The classes of the line in the style sheet."""
        return f"line s{self.number % _NUM_STYLES}" + (" faint" if self.is_faint else "")

    @property
    def parts(self) -> list[list[Point]]:
        """The line in pieces, cut at points that are not finite."""
        return [list(part) for is_finite, part in groupby(self.points, _is_finite) if is_finite]


class Axis:
    """Maps values to coordinates of the picture, and has the ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, is_whole: bool = False) -> None:
        """``start`` and ``end`` are the coordinates of the least and the largest value."""
        self.start, self.end = start, end
        self.ticks = round_numbers(min(values), max(values), is_whole)
        self._low, self._high = min(*values, *self.ticks), max(*values, *self.ticks)

    def at(self, value: float) -> str:
        """The coordinate of ``value``."""
        share = (value - self._low) / (self._high - self._low)
        return f"{self.start + share * (self.end - self.start):.1f}"

    def text(self, tick: float) -> str:
        """The text at a tick."""
        return f"{tick:g}" if abs(tick) < 10_000 else f"{tick / 1000:g}k"


class Chart:
    """Lines in one frame; ``name`` is unique in the page and connects title and description to the picture."""

    # A phone shows a chart at about this width, so letters keep their size there.
    width, height = 380, 240

    def __init__(self, name: str, title: str, description: str, lines: Sequence[Line], x_label: str) -> None:
        self.name, self.title, self.description, self.lines, self.x_label = name, title, description, lines, x_label
        self.legend = [line for line in lines if line.name != title.lower()]
        points = [point for line in lines for part in line.parts for point in part]
        self.is_empty = not points
        if points:
            self.x = Axis([x for x, _ in points], 48, self.width - 10, is_whole=True)
            self.y = Axis([y for _, y in points], self.height - 36, 10)


def thin(points: Sequence[Point]) -> list[Point]:
    """At most a few hundred of ``points``, including the last."""
    return [*points[: -1 : len(points) // _MAX_POINTS + 1], *points[-1:]]


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """Replaces each value by the mean of about ``window`` around it, of fewer near the ends, so that no curve lags."""
    sums = [0.0, *accumulate(y for _, y in points)]
    smoothed = []
    for position, (x, _) in enumerate(points):
        reach = min(window // 2, position, len(points) - 1 - position)
        smoothed.append((x, (sums[position + reach + 1] - sums[position - reach]) / (2 * reach + 1)))
    return smoothed


def round_numbers(low: float, high: float, is_whole: bool) -> list[float]:
    """Ticks from ``low`` to ``high`` at a distance of 1, 2 or 5 times a power of ten; whole ones stay inside."""
    if high <= low:
        margin = 1.0 if is_whole else abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 5)
    if is_whole:
        step = max(1.0, step)
        return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _is_finite(point: Point) -> bool:
    return all(map(math.isfinite, point))
