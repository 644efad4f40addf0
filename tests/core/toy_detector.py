"""A detector that reads a file with one number as a picture, and fails where a test wants it to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.errors import DataError
from vlrun.interfaces.detector import Detector
from vlrun.interfaces.examples import RegionFeatures

WORDS = {"damaged": "damaged: it ends too early", "nothing": "no region was found"}


class ToyDetector(Detector):
    """A picture is a file with one number; ``kill`` ends the process that meets it."""

    weights = "sha256:70y"
    boxes = "2"

    def __init__(self, version: str = "1", log: Path | None = None, seconds: float = 0) -> None:
        self._version, self._log, self._seconds = version, log, seconds

    def __reduce__(self) -> Any:
        raise TypeError("every process makes its own")

    def describe(self) -> str:
        return f"toy {self._version}"

    def read(self, file: Path) -> Any:
        text = file.read_text()
        if text == "damaged":
            raise DataError(WORDS[text])
        return text

    def detect(self, image_id: str, picture: Any) -> RegionFeatures:
        time.sleep(self._seconds)
        if picture == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if picture == "bug":
            raise ZeroDivisionError("a bug of the detector")
        if picture == "nothing":
            raise DataError(WORDS[picture])
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{image_id}\n")
        value = float("nan") if picture == "nan" else float(picture)
        return RegionFeatures(
            image_id,
            np.full((2, 4), value, np.float32),
            np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32),
            10,
            10,
            class_ids=np.array([3, 4], np.int32),
        )


class WatchedDetector(ToyDetector):
    """Is slow, and leaves the number of its process in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(seconds=0.2)
        (folder / str(os.getpid())).touch()
