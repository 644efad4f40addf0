"""What made region features, in words that can be compared: of a store, and of the features that weights were made for.

Features of another detector have the same shape and fit the same model, which then scores far below what it can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

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

    def as_json(self) -> dict[str, str]:
        """The fields, for a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> FeatureOrigin:
        """The origin in a manifest; fields that are not there are unknown."""
        return cls(**{field.name: str((content or {}).get(field.name) or "") for field in fields(cls)})


UNKNOWN = FeatureOrigin()


def differ(made: FeatureOrigin, regions: tuple[int, int], wanted: FeatureOrigin) -> bool | None:
    """Whether features are of another kind than ``wanted``; None where that is not known.

    Args:
        made: what made the features.
        regions: the fewest and the most regions that an image of theirs has.
        wanted: what made the features that the weights were trained on.
    """
    if made.name and wanted.name:
        if made.name != wanted.name:
            return True
    elif not made.extractor or made.extractor != wanted.extractor:
        return None
    if made.weights and wanted.weights and made.weights != wanted.weights:
        return True
    if not wanted.boxes or made.boxes == wanted.boxes:
        return False
    fewest, most = limits(wanted.boxes)
    # not the fewest of an image: a tiny picture has few regions, whatever a detector was asked for
    return not fewest <= (limits(made.boxes) if made.boxes else regions)[1] <= most


def limits(boxes: str) -> tuple[int, int]:
    """The fewest and the most of ``36`` or ``10-100`` boxes."""
    fewest, _, most = boxes.partition("-")
    return int(fewest), int(most or fewest)
