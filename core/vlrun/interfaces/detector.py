"""What a detector is: pictures in, region features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlrun.interfaces.examples import RegionFeatures


class Detector(ABC):
    """Finds the regions of pictures, one at a time. Every process that computes makes its own.

    Attributes:
        weights: name or hash of its weights; empty where it has none.
        boxes: how many regions it is asked for, ``36`` or ``10-100``; tiny pictures may have fewer. Empty: not stated.
    """

    weights: str = ""
    boxes: str = ""

    @abstractmethod
    def describe(self) -> str:
        """One line with all that changes the features, beside ``weights`` and ``boxes``: the pipeline and its options.

        A first word with a colon, such as ``mine:``, is the name by which a run compares features with those that
        weights were trained on. The line and the two stand in the store, and an extraction continues only under the
        same ones.
        """

    @abstractmethod
    def read(self, file: Path) -> Any:
        """Decodes and prepares a picture; called in a thread, while another picture is with ``detect``.

        Raises:
            DataError: it cannot be used; one line without the name of the file. The others go on.
        """

    @abstractmethod
    def detect(self, image_id: str, picture: Any) -> RegionFeatures:
        """The regions of what ``read`` returned, boxes in pixels of the picture; raises DataError like it."""
