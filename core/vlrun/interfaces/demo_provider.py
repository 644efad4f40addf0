"""The demo-data interface: what a provider of embedded data promises, so that ``--demo`` runs any experiment on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DemoFiles:
    """What the demo data offers to a backbone: a WordPiece vocabulary, and the width and number of regions."""

    vocabulary: Path
    region_feature_size: int
    num_regions: int


@dataclass(frozen=True)
class DemoSource:
    """How the demo data of one dataset is read.

    Attributes:
        builder: name of the dataset's builder that reads what ``write_annotations`` writes, such as ``official``.
        image_set: name of the images that the dataset is about; datasets over the same images share their features.
    """

    builder: str
    image_set: str


class DemoProvider(ABC):
    """Embedded data in the real file formats, generated deterministically and in seconds.

    Attributes:
        name: shown in the header of a demo run, and part of the cache folder's name.
        version: changes with what is generated; part of the cache folder's name.
        datasets: the datasets whose official files it can write.
        feature_format: name of the feature format of its region features.
        region_feature_size, num_regions: what the regions look like.
        detector: name of a detector that finds regions of this kind in the pictures, with its options as they are; None
            if there is none.
        duration: how long a demo takes, in words; empty if that is not known.
    """

    name: str
    version: str
    datasets: Mapping[str, DemoSource]
    feature_format: str
    region_feature_size: int
    num_regions: int
    detector: str | None = None
    duration: str = ""

    @abstractmethod
    def write_vocabulary(self, path: Path) -> None:
        """Writes a WordPiece vocabulary of all its texts to ``path``."""

    @abstractmethod
    def write_annotations(self, dataset: str, folder: Path) -> None:
        """Writes the official files of ``dataset`` into ``folder``, which exists and is empty."""

    @abstractmethod
    def write_features(self, image_set: str, folder: Path) -> None:
        """Writes files of region features into ``folder``, which exists and is empty."""

    def write_pictures(self, image_set: str, folder: Path) -> None:  # noqa: B027  # a provider may have none
        """Writes some of the pictures into ``folder``, which exists and is empty: for reports, never to learn from."""

    def write_all_pictures(self, image_set: str, folder: Path) -> None:
        """Writes the pictures of all images into ``folder``, named by their ids: for detectors, and backbones that read
        pictures.
        """
        raise NotImplementedError(f"demo data '{self.name}' draws no pictures to learn from")

    @abstractmethod
    def overrides(self, datasets: Sequence[str]) -> Mapping[str, Any]:
        """Dotted experiment options (``train.epochs`` ...) of a schedule that suits the demo data."""
