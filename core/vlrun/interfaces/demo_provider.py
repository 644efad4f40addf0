"""The demo-data interface: what a provider of embedded data promises, so that ``--demo`` runs any experiment on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlrun.errors import PluginError


@dataclass(frozen=True)
class DemoFiles:
    """What the demo data offers to a backbone.

    Attributes:
        vocabulary: of word pieces.
        region_feature_size, num_regions: what the regions look like.
        class_names: file with the names of their detector classes, a line each, by id; None if it names none.
    """

    vocabulary: Path
    region_feature_size: int
    num_regions: int
    class_names: Path | None = None


@dataclass(frozen=True)
class DemoObject:
    """One thing that a demo image shows.

    Attributes:
        name: what it is, such as ``ball``; a word of the demo's vocabulary, like the attributes.
        attributes: what can be said of it, such as ``{"colour": "red", "size": "small"}``; all objects have the same.
        box: xyxy in pixels.
        outline: its polygon, (x, y) in pixels.
    """

    name: str
    attributes: Mapping[str, str]
    box: tuple[float, float, float, float]
    outline: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class DemoRelation:
    """That an object is, say, ``left of`` another one; both by their position among the objects of their image."""

    subject: int
    name: str
    object: int


class DemoImage(Protocol):
    """What texts can be made about: an image of the demo's world, as far as it is of any plugin's concern."""

    @property
    def id(self) -> str:
        """Canonical id, as stores and annotations have it."""
        ...

    @property
    def number(self) -> int:
        """As files have it that number their images; no two of any set have the same, so it seeds random choices."""
        ...

    @property
    def file_name(self) -> str:
        """As official files have it, with a suffix."""
        ...

    @property
    def split(self) -> str:
        """The split of its set that the image is in; no image of any set is in two."""
        ...

    @property
    def part(self) -> str:
        """The folder or archive that it is published in, such as ``train2014``."""
        ...

    @property
    def width(self) -> int:
        """In pixels."""
        ...

    @property
    def height(self) -> int:
        """In pixels."""
        ...

    @property
    def background(self) -> str:
        """What is behind the objects."""
        ...

    @property
    def objects(self) -> Sequence[DemoObject]:
        """All that is to be seen, the same each time."""
        ...

    @property
    def relations(self) -> Sequence[DemoRelation]:
        """Those between two objects that are clear to see, in either direction."""
        ...


@dataclass(frozen=True)
class DemoImageRequest:
    """An image that a plugin wants, for texts that need certain things to be seen; the world chooses their places.

    Attributes:
        number, id, split, part: as the image shall have them.
        objects: the name and the attributes of each object.
        background: as the image shall have it.
    """

    number: int
    id: str
    split: str
    part: str
    objects: Sequence[tuple[str, Mapping[str, str]]]
    background: str


class DemoProvider(ABC):
    """A small world of embedded data, generated deterministically and in seconds: images, features and a vocabulary.

    What is said about the images is written by plugins, each for its own datasets, in the official file formats
    (``vlrun.DemoSource``); so the demos of any set of tasks train together.

    Attributes:
        name: shown in the header of a demo run, and part of the cache folder's name.
        version: changes with what is generated; part of the cache folder's name.
        image_sets: names of its own sets of images.
        feature_format: name of the feature format of its region features.
        region_feature_size, num_regions: what the regions look like.
        class_names: of the detector classes of its regions, by id; empty if they have none.
        detector: name of a detector that finds regions of this kind in the pictures, with its options as they are; None
            if there is none.
        duration: how long a demo takes, in words; empty if that is not known.
    """

    name: str
    version: str
    image_sets: Sequence[str]
    feature_format: str
    region_feature_size: int
    num_regions: int
    class_names: Sequence[str] = ()
    detector: str | None = None
    duration: str = ""

    @abstractmethod
    def write_vocabulary(self, path: Path) -> None:
        """Writes a WordPiece vocabulary of its world to ``path``; it splits other words into letters."""

    @abstractmethod
    def images(self, image_set: str) -> Sequence[DemoImage]:
        """The images of a set, always the same."""

    def make_images(self, wanted: Sequence[DemoImageRequest]) -> Sequence[DemoImage]:
        """One image for each request, in order, always the same.

        Raises:
            PluginError: this world makes none, or does not know what they shall show.
        """
        raise PluginError(f"demo data '{self.name}' makes no images for others")

    @abstractmethod
    def write_features(self, images: Sequence[Any], folder: Path) -> None:
        """Writes files of the region features of its images into ``folder``, which exists and is empty."""

    def write_pictures(self, images: Sequence[Any], folder: Path) -> None:  # noqa: B027  # there may be none
        """Writes some of the pictures into ``folder``, which exists and is empty: for reports, never to learn from."""

    def write_all_pictures(self, images: Sequence[Any], folder: Path) -> None:
        """Writes all of the pictures into ``folder``, named by their ids: for detectors, and backbones that read
        pictures.
        """
        raise NotImplementedError(f"demo data '{self.name}' draws no pictures to learn from")

    @abstractmethod
    def overrides(self, epochs: int, learning_rate: float) -> Mapping[str, Any]:
        """Dotted experiment options (``train.epochs`` ...) of a schedule that suits the demo data.

        Args:
            epochs: after which most is learned of all datasets in question.
            learning_rate: the smallest of their peak values.
        """
