"""Turning named values, arrays or base64 texts, into the region features of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.formats.tsv import Cell
from vlrun.interfaces.examples import RegionFeatures

Names = Mapping[str, tuple[str, ...]]
"""What a value is for -> the names that it has in files, the first that is there counts."""

NAMES: Names = {
    "features": ("features",),
    "boxes": ("boxes", "bbox"),
    "height": ("img_h", "image_h", "image_height"),
    "width": ("img_w", "image_w", "image_width"),
    "num_boxes": ("num_boxes",),
    "class_ids": ("objects_id", "obj_id", "objects"),  # the second name is that of VOLTA's HDF5, the third MMF's
    "attribute_ids": ("attrs_id", "attr_id"),
    "class_scores": ("objects_conf", "obj_conf"),
    "attribute_scores": ("attrs_conf", "attr_conf"),
}


def regions_from(image_id: str, values: Mapping[str, Any]) -> RegionFeatures:
    """The image in ``values``, as ViLBERT, VOLTA and MMF name them; raises DataError where one is missing or wrong."""
    found = {wanted: next((name for name in names if name in values), None) for wanted, names in NAMES.items()}
    required = ("features", "boxes", "height", "width")
    if absent := [f"'{NAMES[wanted][0]}'" for wanted in required if found[wanted] is None]:
        there = ", ".join(map(str, list(values)[:12])) or "nothing"
        raise DataError(f"has no {' and no '.join(absent)}; it holds {there}")

    def given(wanted: str) -> tuple[str, Any]:
        name = found[wanted]
        assert name is not None
        return name, values[name]

    name, boxes = given("boxes")
    cell = None if isinstance(boxes, np.ndarray) else _texts(name, boxes)
    count = _whole(*given("num_boxes")) if found["num_boxes"] else _count_of(name, boxes)
    if count < 1:
        raise DataError(f"{count} regions")
    optional = {}
    for wanted, decode in _OPTIONAL.items():
        if found[wanted] and (array := decode(*given(wanted), count)) is not None:
            optional[wanted] = array
    if "class_scores" not in optional and "class_ids" in optional and "cls_prob" in values:
        optional |= _probabilities(values["cls_prob"], optional["class_ids"])
    return RegionFeatures(
        image_id=image_id,
        features=_matrix(*given("features"), count),
        boxes=cell.floats(4 * count).reshape(count, 4) if cell else _numbers(name, boxes, (count, 4)),
        height=_whole(*given("height")),
        width=_whole(*given("width")),
        **optional,
    )


def _texts(name: str, value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(name, value.encode(errors="replace"))
    if isinstance(value, bytes):
        return Cell(name, value)
    raise DataError(f"'{name}' is {type(value).__name__}, expected an array or base64")


def _count_of(name: str, boxes: Any) -> int:
    if not isinstance(boxes, np.ndarray):
        raise DataError("has no 'num_boxes'")
    if boxes.ndim != 2:
        raise DataError(f"'{name}' has shape {boxes.shape}, expected (regions, 4)")
    return len(boxes)


def _whole(name: str, value: Any) -> int:
    array = np.asarray(value).reshape(-1)
    try:
        number = float(array[0]) if array.size == 1 else float("nan")
        whole = int(number)
    except (ValueError, OverflowError, TypeError):
        number, whole = float("nan"), 0
    if number != whole:
        raise DataError(f"'{name}' is {str(value)[:40]!r}, expected one whole number")
    return whole


def _matrix(name: str, value: Any, count: int) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        return _texts(name, value).matrix(count)
    array = _numeric(name, value)
    if array.ndim == 3 and array.shape[0] == 1:  # some writers keep the batch
        array = array[0]
    if array.ndim != 2 or len(array) < count or (len(array) > count and array[count:].any()):
        raise DataError(f"'{name}' has shape {array.shape}, expected ({count}, width)")
    return array[:count]  # what follows is padding


def _numbers(name: str, value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    value = _numeric(name, value)
    if value.ndim != 2 or len(value) < shape[0] or value.shape[1] != shape[1] or value[shape[0] :].any():
        raise DataError(f"'{name}' has shape {value.shape}, expected {shape}")
    return value[: shape[0]].astype(np.float32)


def _numeric(name: str, value: NDArray[Any]) -> NDArray[Any]:
    if value.dtype.kind not in "fiu":
        raise DataError(f"'{name}' holds {value.dtype}, not numbers")
    return value


def _ids(name: str, value: Any, count: int) -> NDArray[np.int32] | None:
    if isinstance(value, np.ndarray):
        return value[:count].astype(np.int32) if _is_vector(value, count) else None
    return _texts(name, value).ids(count) if isinstance(value, str | bytes) else None


def _scores(name: str, value: Any, count: int) -> NDArray[np.float32] | None:
    if isinstance(value, np.ndarray):
        return value[:count].astype(np.float32) if _is_vector(value, count) else None
    return _texts(name, value).floats(count) if isinstance(value, str | bytes) else None


def _is_vector(value: NDArray[Any], count: int) -> bool:
    return value.ndim == 1 and len(value) >= count and value.dtype.kind in "fiu"


def _probabilities(table: Any, ids: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
    """The score of each class in MMF's ``cls_prob``, which some of its scripts write with the background in front.

    Empty where the table does not have its largest values at ``ids``: it is of something else.
    """
    if not isinstance(table, np.ndarray) or table.ndim != 2 or len(table) < len(ids) or table.dtype.kind != "f":
        return {}
    for first in (0, 1):
        part = table[: len(ids), first:]
        if part.shape[1] and (part.argmax(1) == ids).all():
            return {"class_scores": part.max(1).astype(np.float32)}
    return {}


_OPTIONAL: Mapping[str, Callable[[str, Any, int], NDArray[Any] | None]] = {
    "class_ids": _ids,
    "attribute_ids": _ids,
    "class_scores": _scores,
    "attribute_scores": _scores,
}
