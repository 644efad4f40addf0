"""A part of the demo world, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from vlrun.plugins.manager import create_plugins
from vlrun_demo.official_refcoco import Referent, referents_of
from vlrun_demo.provider import DemoWorld
from vlrun_demo.scene import Scene, Thing
from vlrun_demo.world import Image, images


def write_demo(dataset: str, folder: Path) -> None:
    """Writes the official files of a dataset about all images."""
    source = create_plugins().demo_sources()[dataset]
    source.write(folder, DemoWorld().images(source.image_set))


@pytest.fixture(scope="session")
def some_images() -> list[Image]:
    """Images of all splits."""
    return images()[::10]


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Scenes of all splits."""
    return [image.scene() for image in images()[::18]]


@pytest.fixture(scope="session")
def referents() -> Callable[[str], list[Referent]]:
    """``referents(dataset)``: what the dataset talks about in all test images and in some of the others."""
    chosen = [image for image in images() if image.split.startswith("test") or image.image_id % 12 == 0]
    return cache(lambda dataset: list(referents_of(dataset, chosen)))


@pytest.fixture(scope="session")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``annotations(dataset)``: the folder of its files, about all images; to be read alone."""

    @cache
    def written(dataset: str) -> Path:
        folder = tmp_path_factory.mktemp(dataset)
        write_demo(dataset, folder)
        return folder

    return written


@pytest.fixture
def make_thing() -> Callable[..., Thing]:
    """``make_thing(x, y)``: a small plain red ball with its centre at (x, y), other attributes by name."""

    def make(x: float, y: float, **attributes: str) -> Thing:
        given = {"kind": "ball", "colour": "red", "size": "small", "pattern": "plain", **attributes}
        return Thing(**given, box=(x - 30, y - 30, x + 30, y + 30))

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers and matrices of these tests are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
