"""VinVL's TSV files, whose features end with six columns of geometry, and its ``predictions.tsv``.

- ``features.tsv``: name, number of boxes, base64 of (n, 2054); ``*.feature.tsv``: name, JSON with ``num_boxes`` and
  ``features``. The last six columns are x1/W, y1/H, x2/W, y2/H and box width and height, divided likewise. Sizes come
  from ``predictions.tsv``, ``*label.tsv`` or ``*hw.tsv`` beside the file.
- ``predictions.tsv`` written with TEST.OUTPUT_FEATURE: name, JSON with ``objects``, each with ``rect`` and ``feature``,
  and scores and names of classes and attributes, which ``VG-SGG-dicts*.json`` beside the file turns into numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.formats.sizes import Sizes, read_sizes, size_files
from vlrun.features.formats.tsv import Cell, read_rows
from vlrun.features.origin import FeatureOrigin
from vlrun.files import read_json
from vlrun.foreign.json import parse_json
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_GEOMETRY = 6
_NAMES = "VG-SGG-dicts*.json"
_LABELS = ("predictions.tsv", "*label.tsv", "*labels.tsv")


class VinvlTsv(FeatureSource):
    """The rows of one file."""

    def __init__(self, path: Path) -> None:
        file = _feature_file(path)
        if file is None:
            raise DataError(f"{path} holds neither features.tsv nor *.feature.tsv nor predictions.tsv")
        self._file = file
        self._labels = sorted({beside for pattern in _LABELS for beside in file.parent.glob(pattern) if beside != file})
        self._size_files = size_files(file.parent)
        self._names = sorted(file.parent.glob(_NAMES))[:1]

    def files(self) -> Sequence[Path]:
        return [self._file, *self._labels, *self._size_files, *self._names]

    def describe(self) -> str:
        return self._file.name

    def origin(self) -> FeatureOrigin:
        return FeatureOrigin("vinvl")

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        total = self._file.stat().st_size
        for row in read_rows(self._file, *position):
            name = row.cells[0].decode(errors="replace").strip()
            yield SourceRecord(
                location=f"{self._file}:{row.line}",
                image_id=canonical_image_id(name),
                load=partial(self._load, canonical_image_id(name), row.cells),
                next=(row.line, row.end, row.end_character),
                share=row.end / total,
            )

    def _load(self, image_id: str, cells: list[bytes]) -> RegionFeatures:
        if len(cells) == 3:
            count = Cell("num_boxes", cells[1]).whole_number()
            return self._with_geometry(image_id, _matrix(Cell("features", cells[2]), count))
        if len(cells) != 2:
            raise DataError(f"{len(cells)} columns, expected name, number of boxes and features, or name and JSON")
        found = _parsed(cells[1])
        if "objects" in found:
            return self._of_objects(image_id, found)
        if not isinstance(found.get("num_boxes"), int) or not isinstance(found.get("features"), str):
            raise DataError("its JSON has no 'num_boxes' and 'features'")
        cell = Cell("features", found["features"].encode(errors="replace"))
        return self._with_geometry(image_id, _matrix(cell, found["num_boxes"]))

    def _with_geometry(self, image_id: str, table: Any) -> RegionFeatures:
        geometry = table[:, -_GEOMETRY:]
        is_there = table.shape[1] > _GEOMETRY
        if not is_there or not np.allclose(geometry[:, 2:4] - geometry[:, :2], geometry[:, 4:], atol=2e-3):
            raise DataError(
                f"the last {_GEOMETRY} of {table.shape[1]} columns are not the geometry of the boxes; features without "
                "boxes cannot be used"
            )
        height, width = self._size(image_id)
        boxes = geometry[:, :4] * np.array([width, height, width, height], np.float32)
        return RegionFeatures(image_id, table[:, :-_GEOMETRY], boxes, height, width)

    def _of_objects(self, image_id: str, found: dict[str, Any]) -> RegionFeatures:
        try:
            features = [Cell("feature", item["feature"].encode()).matrix(1)[0] for item in found["objects"]]
            boxes = np.array([item["rect"] for item in found["objects"]], np.float32).reshape(-1, 4)
            detected = self._detected(found["objects"])
            stated = _stated_size(found)
        except KeyError as error:
            raise DataError(f"an object has no {error}; was it written with TEST.OUTPUT_FEATURE True?") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"objects of another layout: {error}") from error
        if len({len(feature) for feature in features}) != 1:
            raise DataError(f"{len(features)} objects, with features of unlike width")
        height, width = stated or self._size(image_id)
        return RegionFeatures(image_id, np.stack(features), boxes, height, width, **detected)

    def _detected(self, objects: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
        """Scores, and with the names of classes and attributes beside the file their numbers; of attributes the first.

        What some object lacks is left out.
        """
        best = [
            max(zip(item.get("attr_scores") or (), item.get("attributes") or (), strict=False), default=None)
            for item in objects
        ]
        columns: dict[str, list[Any]] = {
            "class_scores": [item.get("conf") for item in objects],
            "class_ids": [self._numbers["label_to_idx"].get(str(item.get("class"))) for item in objects],
            "attribute_scores": [found and found[0] for found in best],
            "attribute_ids": [found and self._numbers["attribute_to_idx"].get(found[1]) for found in best],
        }
        return {
            name: np.array(values, np.int32 if name.endswith("ids") else np.float32)
            for name, values in columns.items()
            if None not in values
        }

    @cached_property
    def _numbers(self) -> dict[str, dict[str, int]]:
        """Name -> number from 0, of classes and of attributes; the file counts from 1, as 0 is the background."""
        content = read_json(self._names[0]) if self._names else {}
        return {
            kind: {name: int(number) - 1 for name, number in (content.get(kind) or {}).items()}
            for kind in ("label_to_idx", "attribute_to_idx")
        }

    def _size(self, image_id: str) -> tuple[int, int]:
        if image_id not in self._sizes:
            files = ", ".join(map(str, [*self._labels, *self._size_files]))
            raise DataError(f"{files or 'no predictions.tsv or hw.tsv beside it'}: no size of image '{image_id}'")
        return self._sizes[image_id]

    @cached_property
    def _sizes(self) -> Sizes:
        sizes: Sizes = read_sizes(self._size_files)
        for file in self._labels:
            for row in read_rows(file):
                found = _parsed(row.cells[1]) if len(row.cells) == 2 else {}
                if stated := _stated_size(found):
                    sizes[canonical_image_id(row.cells[0].decode(errors="replace"))] = stated
        return sizes


def _matrix(cell: Cell, count: int) -> Any:
    if count < 1:
        raise DataError(f"{count} regions")
    return cell.matrix(count)


def _stated_size(found: dict[str, Any]) -> tuple[int, int] | None:
    height, width = found.get("image_h"), found.get("image_w")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _parsed(cell: bytes) -> dict[str, Any]:
    try:
        found = parse_json(cell)
    except ValueError as error:
        raise DataError(f"damaged JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"its JSON is {type(found).__name__}, expected an object")
    return found


def _feature_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".tsv" else None
    if not path.is_dir():
        return None
    names = ("features.tsv", "feature.tsv", "*.feature.tsv", "*.features.tsv", "predictions.tsv")
    return next((file for name in names for file in sorted(path.glob(name))), None)


def is_vinvl_tsv(path: Path) -> bool:
    """Whether the first line has the columns of one of VinVL's feature files."""
    file = _feature_file(path)
    if file is None:
        return False
    with file.open("rb") as opened:
        cells = opened.readline(64 << 20).rstrip(b"\r\n").split(b"\t")
    if len(cells) == 3:
        return cells[1].isdigit() and not cells[2][:12].isdigit()
    start = cells[1].lstrip()[:200_000] if len(cells) == 2 else b""
    return start.startswith(b"{") and (b'"features"' in start or b'"feature"' in start)
