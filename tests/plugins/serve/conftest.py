"""A run that answers in a known way, and pictures to ask about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from werkzeug.serving import make_server

from vlrun import Answer, Choice, DataError, Question, RegionFeatures
from vlrun_serve.app import AskPage

WIDTH, HEIGHT = 200, 100


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
    asked: list[tuple[Any, Any]] = field(default_factory=list)

    def image_ids(self) -> list[str]:
        return ["img1", "img2", *(f"other{number}" for number in range(50))]

    def features(self, image_id: str) -> RegionFeatures:
        return features(image_id)

    def ask(self, text: Sequence[str], image: Sequence[Any], *, top: int = 5) -> Answer:
        self.asked.append((text, image))
        ids = tuple(each if isinstance(each, str) else each.image_id for each in image)
        if "nowhere" in ids:
            raise DataError("image 'nowhere' has no region features")
        best, second = (20.0, 10.0, 120.0, 60.0), (50.0, 30.0, 90.0, 95.0)
        choices = (Choice("region 3", 0.75, best), Choice("<b>2</b>", 0.25, second))
        return Answer(Question(tuple(text), ids), choices, ((WIDTH, HEIGHT),) * len(ids))


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
def address(run: FakeRun, pictures: Path) -> Iterator[str]:
    """Where the page is served, by a real server."""
    server = make_server("127.0.0.1", 0, AskPage(run, pictures), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()
