"""A run that answers in a known way, and pictures to ask about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_requests import HEIGHT, WIDTH
from PIL import Image
from werkzeug.serving import make_server
from werkzeug.test import Client

from vlrun import Answer, Choice, DataError, Question, RegionAttention, RegionFeatures
from vlrun_serve.app import AskPage


def features(image_id: str, width: int = WIDTH, height: int = HEIGHT) -> RegionFeatures:
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    return RegionFeatures(image_id, np.zeros((1, 4), np.float16), boxes, height, width)


@dataclass
class FakeRun:
    """Stands where a ``vlrun.LoadedRun`` does."""

    checkpoint: str = "best (step 7)"
    detector: Callable[[Path], RegionFeatures] | None = None
    name: str = "rec"
    asked_images: int | None = 1
    asked_texts: int | None = 1
    looks: bool = True
    reads_pictures: bool = False
    asked: list[tuple[Any, Any]] = field(default_factory=list)

    def image_ids(self) -> list[str]:
        return ["img1", "img2", *(f"other{number}" for number in range(50))]

    def note_on_photographs(self, detector: Any) -> str:
        return f"photographs have features of {detector.describe()}"

    def features(self, image_id: str) -> RegionFeatures:
        return features(image_id)

    def ask(self, text: Sequence[str], image: Sequence[Any], *, top: int = 5, attention: bool = False) -> Answer:
        self.asked.append((text, image))
        seen = [Image.open(each).size if isinstance(each, Path) else None for each in image]
        assert seen == [(WIDTH, HEIGHT) if isinstance(each, Path) else None for each in image], "it is there, and whole"
        ids = tuple(
            each if isinstance(each, str) else each.stem if isinstance(each, Path) else each.image_id for each in image
        )
        if "nowhere" in ids:
            raise DataError("image 'nowhere' has no region features")
        if "fault" in ids:
            raise RuntimeError("a fault")
        best, second = (20.0, 10.0, 120.0, 60.0), (50.0, 30.0, 90.0, 95.0)
        choices = (Choice("region 3", 0.75, best), Choice("<b>2</b>", 0.25, second))
        if self.asked_images is None:
            choices = tuple(Choice(name, 1 / number) for number, name in enumerate(sorted(ids)[:top], 1))
        sizes = ((WIDTH, HEIGHT),) * len(ids)
        return Answer(Question(tuple(text), ids), choices, sizes, self.attention(text, ids) if attention else ())

    def attention(self, text: Sequence[str], ids: Sequence[str]) -> tuple[RegionAttention, ...]:
        """Two regions, of which the text as a whole prefers the first, and its word <i> the second."""
        boxes = ((0.0, 0.0, 100.0, 50.0), (100.0, 50.0, 200.0, 100.0))
        shown = ids if self.asked_images is not None else sorted(ids)[:1]
        return tuple(
            RegionAttention(text[0], name, boxes, (0.75, 0.25), ("the", "<i>"), ((0.5, 0.5), (0.2, 0.8)))
            for name in (shown if self.looks else ())
        )


@pytest.fixture
def make_features() -> Callable[..., RegionFeatures]:
    return features


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with the picture of img1."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), "green").save(folder / "img1.jpg")
    return folder


@pytest.fixture
def client(run: FakeRun, pictures: Path) -> Client:
    """Asks the page without a server."""
    return Client(AskPage(run, pictures, trusted_hosts=["localhost"]))


@pytest.fixture
def address(run: FakeRun, pictures: Path) -> Iterator[str]:
    """Where the page is served, by a real server."""
    page = AskPage(run, pictures, trusted_hosts=["127.0.0.1"], note="other <b>features</b>")
    server = make_server("127.0.0.1", 0, page, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()
