"""What made region features, in words that can be compared: of a store, and of the features that weights were made for.

Features of another detector have the same shape and fit the same model, which then scores far below what it can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlrun.interfaces.detector import Detector

_BOXES = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class FeatureOrigin:
    """What made features; an empty field is unknown.

    Attributes:
        extractor: name of the detector and its profile, such as ``bua-caffe``, or ``bua-caffe: a remark``. Several
            words without a colon after the first are a remark alone, which is not compared.
        weights: name or hash of the detector's weights.
        boxes: how many it keeps of an image: ``36``, or ``10-100`` where the image decides.
    """

    extractor: str = ""
    weights: str = ""
    boxes: str = ""

    def __post_init__(self) -> None:
        match = _BOXES.fullmatch(self.boxes)
        if self.boxes and (match is None or not 0 < int(match[1]) <= int(match[2] or match[1])):
            raise ValueError(f"boxes={self.boxes!r} is no number of boxes; write 36 or 10-100")

    def __str__(self) -> str:
        weights = f"weights {self.weights}" if self.weights else ""
        boxes = f"{self.boxes.replace('-', ' to ')} boxes" if self.boxes else ""
        return ", ".join(part for part in (self.extractor, weights, boxes) if part) or "not stated"

    @property
    def name(self) -> str:
        """Name of the extractor, by which it is compared; empty where it has none."""
        first, colon, _ = self.extractor.partition(":")
        return first if (colon or first == self.extractor) and not re.search(r"\s", first) else ""

    def filled_from(self, other: FeatureOrigin) -> FeatureOrigin:
        """This, with what it leaves open as ``other`` has it; of another extractor nothing is taken."""
        if self.extractor and other.extractor and not (self.name and self.name == other.name):
            return self
        return FeatureOrigin(**{name: value or getattr(other, name) for name, value in self.as_json().items()})

    @classmethod
    def of(cls, detector: Detector) -> FeatureOrigin:
        """What makes the features of a detector."""
        return cls(detector.describe(), detector.weights, detector.boxes)

    def as_json(self) -> dict[str, str]:
        """The fields, for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> FeatureOrigin:
        """The origin in a manifest; fields that are not there are unknown."""
        return cls(**{field.name: str((content or {}).get(field.name) or "") for field in fields(cls)})


UNKNOWN = FeatureOrigin()


def differences(made: FeatureOrigin, regions: tuple[int, int], wanted: FeatureOrigin) -> list[str] | None:
    """In which fields features are of another kind than ``wanted``, in words; None where that is not known.

    Args:
        made: what made the features.
        regions: the fewest and the most regions that an image of theirs has.
        wanted: what made the features that the weights were trained on.
    """
    if not (made.name and wanted.name) and (not made.extractor or made.extractor != wanted.extractor):
        return None
    found = []
    if made.name != wanted.name:
        found.append(f"extractor: {made.name}, not {wanted.name}")
    if made.weights and wanted.weights and made.weights != wanted.weights:
        found.append(f"extractor_weights: {made.weights}, not {wanted.weights}")
    if wanted.boxes and made.boxes != wanted.boxes:
        fewest, most = limits(wanted.boxes)
        # not the fewest of an image: a tiny picture has few regions, whatever a detector was asked for
        if not fewest <= (limits(made.boxes) if made.boxes else regions)[1] <= most:
            found.append(f"boxes: {made.boxes or _span(regions)}, not {wanted.boxes}")
    return found


def _span(regions: tuple[int, int]) -> str:
    fewest, most = regions
    return f"{fewest}" if fewest == most else f"{fewest}-{most}"


def limits(boxes: str) -> tuple[int, int]:
    """The fewest and the most of ``36`` or ``10-100`` boxes."""
    fewest, _, most = boxes.partition("-")
    return int(fewest), int(most or fewest)
