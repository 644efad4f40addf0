"""A part of the demo world, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vlrun_demo.images import Image
from vlrun_demo.provider import VOCABULARY
from vlrun_demo.scene import Scene, Thing
from vlrun_demo.world import images


@pytest.fixture(scope="session")
def some_images() -> list[Image]:
    """Images of all splits."""
    return images()[::10]


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Scenes of all splits."""
    return [image.scene for image in images()[::18]]


@pytest.fixture(scope="session")
def known_words() -> set[str]:
    """The words of the vocabulary, and punctuation."""
    return {word for word in VOCABULARY.read_text().split() if not word.startswith(("[", "##"))}


@pytest.fixture
def make_thing() -> Callable[..., Thing]:
    """``make_thing(x, y)``: a small plain red ball with its centre at (x, y), other attributes by name."""

    def make(x: float, y: float, **attributes: str) -> Thing:
        given = {"kind": "ball", "colour": "red", "size": "small", "pattern": "plain", **attributes}
        return Thing(**given, box=(x - 30, y - 30, x + 30, y + 30))

    return make


@pytest.fixture
def make_image() -> Callable[..., Image]:
    """``make_image(things)``: an image of 640 x 480 that shows them."""

    def make(things: tuple[Thing, ...], background: str = "white") -> Image:
        return Image(1, "train", "one", "one", lambda number: Scene(number, 640, 480, background, things))

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
