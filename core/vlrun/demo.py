"""What a provider of demo data promises, and how ``--demo`` uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun.configs import DemoFiles


class DemoProvider(ABC):
    """Embedded data in the real file formats, generated deterministically and in seconds.

    Attributes:
        name: shown in the header of a demo run.
        version: changes whenever the generated files change; part of the cache folder's name.
        datasets: names of the datasets whose official files it can write.
    """

    name: str
    version: str
    datasets: tuple[str, ...]

    @abstractmethod
    def write_vocabulary(self, path: Path) -> DemoFiles:
        """Writes a WordPiece vocabulary to ``path`` and says what the regions look like."""

    @abstractmethod
    def write_annotations(self, dataset: str, folder: Path) -> str:
        """Writes the source files of ``dataset`` into ``folder``; returns the builder source that reads them."""

    @abstractmethod
    def write_features(self, dataset: str, folder: Path) -> tuple[str, Path]:
        """Writes feature files of the images of ``dataset`` into ``folder``; returns feature format and path."""

    @abstractmethod
    def overrides(self, datasets: tuple[str, ...]) -> Mapping[str, Any]:
        """Dotted experiment options (``train.epochs`` ...) of a schedule that suits the demo data."""
