"""A toy world of demo data, and as much of the plugins as preparing it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from toy_detector import ToyDetector

from vlrun import (
    Builder,
    BuildReport,
    DataError,
    DemoProvider,
    DemoSource,
    DetectorConfig,
    Entry,
    FeatureFormat,
)
from vlrun.plugins.builtin import vlrun_feature_formats

NUM_IMAGES = 4


class ToyProvider(DemoProvider):
    """Two datasets over the same images; writes down what it is asked for."""

    name = "toys"
    version = "7"
    image_sets: Sequence[str] = ("zoo",)
    feature_format = "npz"
    region_feature_size = 3
    num_regions = 2

    def __init__(self, log: Path) -> None:
        self.log = log

    def calls(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def note(self, call: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{call}\n")

    def write_vocabulary(self, path: Path) -> None:
        self.note("vocabulary")
        path.write_text("[PAD]\n")

    def images(self, image_set: str) -> Sequence[Any]:
        return [self, image_set]

    def write_features(self, images: Sequence[Any], folder: Path) -> None:
        self.note(f"features:{images[1]}")
        for index in range(NUM_IMAGES):
            boxes = np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32)
            np.savez(folder / f"img{index}.jpg.npz", x=np.ones((2, 3), np.float32), boxes=boxes, image_h=10, image_w=10)

    def overrides(self, epochs: int, learning_rate: float) -> Mapping[str, Any]:
        return {"train.epochs": epochs, "train.learning_rate": learning_rate}


def write_official(dataset: str, folder: Path, images: Sequence[Any]) -> None:
    provider, _ = images
    provider.note(f"annotations:{dataset}")
    (folder / "official.txt").write_text(f"{dataset}\n")


def source(name: str, **others: Any) -> DemoSource:
    writer = f"{__name__}:write_official"
    options = {"provider": "toys", "image_set": "zoo", "builder": "official", "writer": writer, "arguments": (name,)}
    return DemoSource(name=name, **{**options, **others})


class ToyPlugins:
    """As much of ``Plugins`` as preparing needs."""

    def __init__(
        self,
        *providers: DemoProvider,
        builders: tuple[Builder, ...] | None = None,
        sources: Sequence[DemoSource] = (source("animals"), source("plants", epochs=3, learning_rate=1e-4)),
    ) -> None:
        self.providers = list(providers)
        self.sources = sources
        self.builders = (builder_of("build"),) if builders is None else builders

    def find(self, kind: str, name: str) -> Entry:
        if kind == "detector":
            return Entry(name=name, summary="", config=f"{__name__}:Eyes", factory=f"{__name__}:look")
        assert kind == "dataset"
        return Entry(
            name=name, summary="", config="vlrun:DatasetConfig", factory="builtins:print", builders=self.builders
        )

    def demo_data(self) -> dict[str, Any]:
        return {
            provider.name: SimpleNamespace(make_provider=lambda provider=provider: provider)
            for provider in self.providers
        }

    def demo_sources(self) -> dict[str, DemoSource]:
        return {source.name: source for source in self.sources}

    def is_broken(self, kind: str, name: str) -> bool:
        return name == "clashing"

    def why_missing(self, kind: str, name: str) -> str:
        return f"{kind} '{name}' is missing or clashes"

    def feature_formats(self) -> dict[str, FeatureFormat]:
        return {found.name: found for found in vlrun_feature_formats()}


def ask_for_whales() -> list[str]:
    return ["whales"]


def ask_for_sharks() -> list[str]:
    return ["sharks"]


class Painter(ToyProvider):
    """Makes images for others."""

    def make_images(self, wanted: Sequence[Any]) -> Sequence[Any]:
        (what,) = wanted
        self.note(f"made:{what}")
        return [self, what]


class Seen(ToyProvider):
    """It has a detector, and draws what that one reads: a number."""

    detector = "eyes"

    def write_all_pictures(self, images: Sequence[Any], folder: Path) -> None:
        self.note(f"all-pictures:{images[1]}")
        for index in range(NUM_IMAGES):
            (folder / f"img{index}.png").write_text(str(index))


class Eyes(DetectorConfig):
    weights: Path = Path("none")


def look(config: Eyes) -> ToyDetector:
    return ToyDetector(config.name)


def build(source: Path, output: Path) -> BuildReport:
    (output / "train.jsonl").write_text(f'{{"from": "{(source / "official.txt").read_text().strip()}"}}\n')
    return BuildReport({"train": 1})


def fail(source: Path, output: Path) -> BuildReport:
    (output / "train.jsonl").write_text("half")
    raise DataError("broken")


def builder_of(function: str, source: str = "official") -> Builder:
    return Builder(source=source, summary="", function=f"{__name__}:{function}")
