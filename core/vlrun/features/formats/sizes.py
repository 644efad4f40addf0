"""Heights and widths of images from a file beside feature files that have only normalised boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlrun.errors import DataError
from vlrun.files import read_json
from vlrun.foreign.json import parse_json
from vlrun.interfaces.examples import canonical_image_id

Sizes = dict[str, tuple[int, int]]
"""Canonical id -> height and width in pixels."""

PATTERNS = ("image_sizes.json", "instances_*.json", "image_info_*.json", "image_data.json", "*hw.tsv")
KINDS = (
    'image_sizes.json ({"ID": [HEIGHT, WIDTH], ...}), instances_*.json or image_info_*.json of COCO, image_data.json '
    "of Visual Genome, or *hw.tsv of VinVL"
)


def size_files(*folders: Path) -> list[Path]:
    """Files with sizes in the first of ``folders`` that has any."""
    for folder in folders:
        if files := sorted(file for pattern in PATTERNS for file in folder.glob(pattern)):
            return files
    return []


def read_sizes(files: list[Path]) -> Sizes:
    """The sizes in all ``files``.

    Raises:
        DataError: one is damaged or of another layout.
    """
    sizes: Sizes = {}
    for file in files:
        try:
            sizes.update(_tsv_rows(file) if file.suffix == ".tsv" else _json_entries(read_json(file)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{file}: no image sizes as expected ({type(error).__name__}: {error})") from error
    return sizes


def _json_entries(content: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    if isinstance(content, dict) and "images" not in content:
        for name, (height, width) in content.items():
            yield canonical_image_id(name), (int(height), int(width))
        return
    for image in content["images"] if isinstance(content, dict) else content:
        name = image["file_name"] if "file_name" in image else str(image["image_id"])
        yield canonical_image_id(name), (int(image["height"]), int(image["width"]))


def _tsv_rows(file: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.rstrip("\n").partition("\t")
            found = parse_json(value)
            size = found[0] if isinstance(found, list) else found
            yield canonical_image_id(name), (int(size["height"]), int(size["width"]))
