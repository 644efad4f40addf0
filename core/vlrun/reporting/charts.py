"""Line charts as SVG text: no script, no outside file, readable by a screen reader and in the dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

Point = tuple[float, float]

# Small on purpose: a phone shows a chart at about this width, so its letters keep their size there.
_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 36
_MAX_POINTS = 240  # more could not be told apart at this width
NUM_STYLES = 6  # of series; the page's style sheet has a colour and a dash pattern for each


@dataclass(frozen=True)
class Series:
    """A named line. ``is_faint`` draws it as a background to another one; ``has_dots`` marks each point."""

    name: str
    points: Sequence[Point]
    style: int = 0
    is_faint: bool = False
    has_dots: bool = False


def line_chart(
    identifier: str, title: str, description: str, series: Sequence[Series], x_label: str, whole_x: bool = True
) -> str:
    """An SVG of all series in one frame; points that are not finite leave gaps. Empty where nothing can be drawn.

    Args:
        identifier: unique in the page; title and description are tied to the picture by it.
        whole_x: ticks of the x axis only at whole numbers.
    """
    points = [point for line in series for point in line.points if _is_finite(point)]
    if not points:
        return ""
    all_x, all_y = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = _ticks(min(all_x), max(all_x), 5, whole_x), _ticks(min(all_y), max(all_y), 5)
    frame = _Frame(min(*all_x, *x_ticks), max(*all_x, *x_ticks), min(*all_y, *y_ticks), max(*all_y, *y_ticks))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{identifier}-title {identifier}-text">',
        f'<title id="{identifier}-title">{escape(title)}</title>',
        f'<desc id="{identifier}-text">{escape(description)}</desc>',
        *(_y_tick(frame, value, y_ticks) for value in y_ticks),
        *(_x_tick(frame, value, x_ticks) for value in x_ticks),
        f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>",
        *(_line(frame, line) for line in series),
        "</svg>",
    ]
    return "".join(parts)


def thin(points: Sequence[Point]) -> list[Point]:
    """At most a few hundred points: neighbours are replaced by their mean, the last point stays as it is."""
    points = [point for point in points if _is_finite(point)]
    if len(points) <= _MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means, points[-1]]


def thin_steps(points: Sequence[Point]) -> list[Point]:
    """Like ``thin`` for a curve with jumps: points within a flat stretch go first, and no mean softens a jump."""
    points = [point for point in points if _is_finite(point)]
    neighbours = zip(points[:-2], points[1:-1], points[2:], strict=True)
    corners = [point for before, point, after in neighbours if not before[1] == point[1] == after[1]]
    kept = [*points[:1], *corners, *points[1:][-1:]]
    return kept if len(kept) <= _MAX_POINTS else [*kept[:: math.ceil(len(kept) / _MAX_POINTS)], kept[-1]]


def smooth(points: Sequence[Point], window: int) -> list[Point]:
    """The mean of about ``window`` points around each one; near the ends of fewer, so that the curve does not lag."""
    points = [point for point in points if _is_finite(point)]
    sums = [0.0, *accumulate(y for _, y in points)]
    smoothed = []
    for position, (x, _) in enumerate(points):
        reach = min(window // 2, position, len(points) - 1 - position)
        total = sums[position + reach + 1] - sums[position - reach]
        smoothed.append((x, total / (2 * reach + 1)))
    return smoothed


@dataclass(frozen=True)
class _Frame:
    """Data coordinates to coordinates of the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def _line(frame: _Frame, series: Series) -> str:
    kind = f"line s{series.style % NUM_STYLES}" + (" faint" if series.is_faint else "")
    parts = [f'<g class="{kind}">']
    for run in _runs(series.points):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in run)
        parts.append(f'<polyline points="{path}"/>')
        if series.has_dots or len(run) == 1:
            parts += [f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5"/>' for x, y in run]
    return "".join([*parts, "</g>"])


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches of finite points."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if _is_finite(point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _y_tick(frame: _Frame, value: float, ticks: Sequence[float]) -> str:
    y = f"{frame.y(value):.1f}"
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 6}" y="{y}" dy="0.35em" text-anchor="end">{_tick_text(value, ticks)}</text>'
    )


def _x_tick(frame: _Frame, value: float, ticks: Sequence[float]) -> str:
    x = f"{frame.x(value):.1f}"
    bottom = _HEIGHT - _BOTTOM
    anchor = "end" if value == ticks[-1] and frame.x(value) > _WIDTH - _RIGHT - 8 else "middle"
    return (
        f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{_tick_text(value, ticks)}</text>'
    )


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that span ``low`` to ``high``; whole ones stay inside."""
    if high <= low:
        if whole:
            return [low - 1, low, low + 1]
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    if whole:
        step = max(1.0, step)
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _tick_text(value: float, ticks: Sequence[float]) -> str:
    if value == 0:
        return "0"
    largest = max(abs(tick) for tick in ticks)
    if largest >= 10_000:
        return f"{value / 1000:g}k" if largest < 1e6 else f"{value / 1e6:g}M"
    if largest < 0.001:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])
