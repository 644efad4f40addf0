"""What flows from annotation files to a backbone, in plain Python and NumPy (this module imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vlrun.interfaces.uncertainty import Units, error_of_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Target = TypeVar("Target")

PICTURE_SUFFIXES = (".jpeg", ".jpg", ".png")
"""Ends of the names of picture files, in small letters."""


def canonical_image_id(name: str) -> str:
    """The one spelling of an image id that stores and annotations share: the file name without folder and suffix.

    ``val2014/COCO_val2014_000000058350.jpg`` and ``COCO_val2014_000000058350`` name the same image.
    """
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PICTURE_SUFFIXES else path.name


@dataclass(frozen=True)
class RegionFeatures:
    """Detector output of one image. R regions, D feature width.

    Attributes:
        image_id: canonical id.
        features: (R, D) float16 or float32.
        boxes: (R, 4) float32, xyxy in pixels of the original image.
        height, width: of the original image, in pixels.
        class_ids, attribute_ids: (R,) int, detector classes; None where the source had none.
        class_scores, attribute_scores: (R,) float32 in [0, 1]; None where the source had none.
    """

    image_id: str
    features: NDArray[Any]
    boxes: NDArray[np.float32]
    height: int
    width: int
    class_ids: NDArray[np.int32] | None = None
    attribute_ids: NDArray[np.int32] | None = None
    class_scores: NDArray[np.float32] | None = None
    attribute_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class RegionBatch:
    """Region features of P images, padded with zeros to the largest number of regions R among them.

    Attributes:
        image_ids: P canonical ids, in the order asked for (an id may repeat).
        features: (P, R, D) in the type of the store.
        boxes: (P, R, 4) float32, xyxy in pixels.
        mask: (P, R) bool, True for a real region.
        sizes: (P, 2) float32, (height, width) of each image in pixels.
        class_ids, attribute_ids: (P, R) int32, the detector's classes, 0 at padding; None where they were not asked for
            or the source had none.
        class_scores, attribute_scores: (P, R) float32 in [0, 1], 0 at padding; None likewise.
        pixels: (P, H, W, 3) uint8, R, G, B: the pictures as the backbone wants them, each at the upper left and zeros
            around it; None where it reads region features. With pixels there is one region to an image, which is all
            of it, and its features are 0 wide.
        pixel_sizes: (P, 2) int64, (height, width) of each picture in ``pixels``; None likewise.
        hidden: whether the images are hidden: features are zeros, pictures black, and classes None.
    """

    image_ids: tuple[str, ...]
    features: NDArray[Any]
    boxes: NDArray[np.float32]
    mask: NDArray[np.bool_]
    sizes: NDArray[np.float32]
    class_ids: NDArray[np.int32] | None = None
    attribute_ids: NDArray[np.int32] | None = None
    class_scores: NDArray[np.float32] | None = None
    attribute_scores: NDArray[np.float32] | None = None
    pixels: NDArray[np.uint8] | None = None
    pixel_sizes: NDArray[np.int64] | None = None
    hidden: bool = False

    def take(self, rows: Sequence[int] | slice) -> RegionBatch:
        """The batch of these of its images, in this order; a row may repeat, and R stays."""
        others = ("image_ids", "hidden")
        arrays = {key: value[rows] for key, value in vars(self).items() if key not in others and value is not None}
        image_ids = self.image_ids[rows] if isinstance(rows, slice) else tuple(self.image_ids[row] for row in rows)
        return replace(self, image_ids=image_ids, **arrays)


@dataclass(frozen=True)
class Example(Generic[Target]):
    """One annotated item of a dataset.

    Attributes:
        id: text, exactly as in the annotation file (GQA ids have leading zeros).
        text: question, statement, expression or caption, as annotated.
        image_ids: canonical ids of its images.
        target: the ground truth, or None where it is hidden.
    """

    id: str
    text: str
    image_ids: tuple[str, ...]
    target: Target | None = None


@dataclass(frozen=True)
class Pair:
    """One text with one image, as a backbone sees it.

    Attributes:
        image_number: which image of its example this is, from 0; some backbones tell the first from the second.
    """

    text: str
    image_id: str
    image_number: int = 0


@dataclass(frozen=True)
class Prediction:
    """What a model says about one example: the example's id and JSON-ready fields (box, answer, score, ...)."""

    id: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The prediction as JSON: its fields beside its id."""
        return {"id": self.id, **self.fields}


@dataclass(frozen=True)
class Score:
    """One number with the protocol that makes it comparable.

    Attributes:
        name: such as ``accuracy``.
        value: in ``unit``.
        unit: ``%`` or empty.
        count: number of examples behind it.
        standard_error: in ``unit``, of the score as an estimate from these examples; None where it is not known.
            ``Score.mean`` computes it; ``error_of_mean`` and ``error_by_resampling`` are for other scores.
        protocol: split file, candidate pool, IoU rule and whatever else changes the number.
        primary: whether the best checkpoint is chosen by it; one score of a metric at most.
        detail: the score of one group among many; reports show it, tables on the console leave it out.
        units: what it is the mean of, for ``runner compare``; only a metric's caller sees it. ``Score.mean`` sets it.
    """

    name: str
    value: float
    unit: str = "%"
    count: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    primary: bool = False
    higher_is_better: bool = True
    detail: bool = False
    standard_error: float | None = None
    units: Units | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The score as JSON, without its units."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "units"}

    @classmethod
    def mean(
        cls,
        name: str,
        values: Sequence[float] | NDArray[Any],
        protocol: Mapping[str, Any] = MappingProxyType({}),
        *,
        unit: str = "%",
        **others: Any,
    ) -> Score:
        """The mean of one value for each example, with its standard error.

        Args:
            values: one at least; in [0, 1] if the unit is ``%``.
            others: further fields of the score.
        """
        scale = 100 if unit == "%" else 1
        import numpy as np

        floats = [float(value) for value in values]
        value = scale * math.fsum(floats) / len(floats)
        error = error_of_mean(floats)
        others["standard_error"] = None if error is None else scale * error
        return cls(name, value, unit, len(floats), protocol, units=Units(scale * np.array(floats)), **others)


@dataclass(frozen=True)
class Referent:
    """What a referring expression means (target ``"referent"``).

    Attributes:
        box: x, y, width, height in pixels, as annotated.
        image_height, image_width: in pixels, as annotated.
        ref_id: the referent, which several expressions may share; None where the source does not say.
    """

    box: tuple[float, float, float, float]
    image_height: int
    image_width: int
    ref_id: int | None = None


@dataclass(frozen=True)
class Answers:
    """The answers to a question (target ``"answers"``).

    Attributes:
        answers: as annotated, one per annotator; empty where the source has only ``scores``.
        scores: answer -> soft score in [0, 1], where the source has nothing else; it may be empty.
        answer_type, question_type: groups with an accuracy of their own; None where unknown.
    """

    answers: tuple[str, ...] = ()
    scores: Mapping[str, float] | None = None
    answer_type: str | None = None
    question_type: str | None = None
