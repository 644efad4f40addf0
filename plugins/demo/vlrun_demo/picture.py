"""Pictures of scenes, drawn with Pillow: for people, and for the detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from vlrun_demo.images import Image as WorldImage
from vlrun_demo.outlines import Point, unit_outline
from vlrun_demo.scene import Box, Scene, Thing

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw as Canvas

PICTURES_PER_SPLIT = 10

_BACKGROUNDS = {"white": (250, 250, 250), "grey": (214, 214, 216), "sand": (240, 228, 200), "sky": (214, 232, 246)}
_COLOURS = {
    "red": (208, 32, 40),
    "orange": (240, 130, 20),
    "yellow": (245, 210, 30),
    "green": (40, 150, 60),
    "blue": (40, 80, 200),
    "purple": (125, 60, 165),
    "pink": (245, 140, 185),
    "black": (45, 45, 48),
}
_LIGHTER = 0.55  # how far a pattern's second colour is from the first, towards white
_EDGE = (30, 30, 30)
_EYES = {"robot": ((0.4, 0.14), (0.6, 0.14)), "ghost": ((0.35, 0.35), (0.65, 0.35)), "cat": ((0.33, 0.5), (0.67, 0.5))}
_HOLE = 0.27  # where the hole of a ring begins
_SMOOTH = 2  # drawn this many times larger, then reduced
_PATTERN_STEPS = 6  # stripes, dots or checks along a side


def write_pictures(images: Iterable[WorldImage], folder: Path, per_split: int | None = PICTURES_PER_SPLIT) -> None:
    """Writes the pictures of the first images of each split, or of all, as PNG files."""
    written: Counter[str] = Counter()
    for image in images:
        if per_split is None or written[image.split] < per_split:
            written[image.split] += 1
            draw(image.scene).save(folder / image.file_name, compress_level=1)


def draw(scene: Scene, boxes: Sequence[Box] = ()) -> Image.Image:
    """The picture of ``scene``, with ``boxes`` (xyxy) outlined on it."""
    picture = Image.new("RGB", (scene.width * _SMOOTH, scene.height * _SMOOTH), _BACKGROUNDS[scene.background])
    for thing in scene.things:
        drawn, mask = _drawn(thing)
        left, top = (round(number * _SMOOTH) for number in thing.box[:2])
        picture.paste(drawn, (left, top), mask)
    picture = picture.reduce(_SMOOTH)
    for box in boxes:
        ImageDraw.Draw(picture).rectangle(box, outline=(255, 0, 255), width=2)
    return picture


def _drawn(thing: Thing) -> tuple[Image.Image, Image.Image]:
    """The thing as it fills its box, and a mask of where it is."""
    x1, y1, x2, y2 = thing.box
    width, height = round((x2 - x1) * _SMOOTH), round((y2 - y1) * _SMOOTH)

    def at(x: float, y: float) -> Point:
        """A point of the unit square."""
        return x * (width - 1), y * (height - 1)

    outline = [at(x, y) for x, y in unit_outline(thing.kind)]
    hole = (*at(_HOLE, _HOLE), *at(1 - _HOLE, 1 - _HOLE)) if thing.kind == "ring" else None
    mask = Image.new("L", (width, height))
    on_mask = ImageDraw.Draw(mask)
    on_mask.polygon(outline, fill=255)
    surface = Image.new("RGB", (width, height), _COLOURS[thing.colour])
    canvas = ImageDraw.Draw(surface)
    _draw_pattern(canvas, thing, at)
    canvas.line([*outline, outline[0]], fill=_EDGE, width=2 * _SMOOTH)
    if hole:
        on_mask.ellipse(hole, fill=0)
        canvas.ellipse(hole, outline=_EDGE, width=2 * _SMOOTH)
    for x, y in _EYES.get(thing.kind, ()):
        canvas.ellipse((*at(x - 0.05, y - 0.05), *at(x + 0.05, y + 0.05)), fill="white", outline=_EDGE, width=_SMOOTH)
    return surface, mask


def _draw_pattern(canvas: Canvas, thing: Thing, at: Callable[[float, float], Point]) -> None:
    second = tuple(round(part + (255 - part) * _LIGHTER) for part in _COLOURS[thing.colour])
    step = 1 / _PATTERN_STEPS
    for row in range(_PATTERN_STEPS):
        y = row * step
        if thing.pattern == "striped":
            canvas.rectangle((*at(0, y), *at(1, y + step / 2)), fill=second)
        for column in range(_PATTERN_STEPS):
            x = column * step
            if thing.pattern == "checked" and (row + column) % 2:
                canvas.rectangle((*at(x, y), *at(x + step, y + step)), fill=second)
            if thing.pattern == "dotted":
                canvas.ellipse((*at(x + 0.2 * step, y + 0.2 * step), *at(x + 0.8 * step, y + 0.8 * step)), fill=second)
