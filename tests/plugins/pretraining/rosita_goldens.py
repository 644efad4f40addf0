"""The made-up set that the original's masking was run on, as arguments of our rules."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun_pretraining.rosita.affinity import affinity, mean_affinity, overlaps
from vlrun_pretraining.rosita.graph import SceneGraph, word_chances
from vlrun_pretraining.rosita.priors import Priors
from vlrun_pretraining.rosita.rates import Rates
from vlrun_pretraining.rosita.word_vectors import WordVectors


class Goldens:
    """Items and images of ``pretrain_data``, and its arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exact = dict(np.load(folder / "exact.npz"))
        self.content = json.loads((folder / "items.json").read_text())
        self.items: list[dict[str, Any]] = self.content["items"]
        self.rates = Rates(
            **{
                name: float(self.exact[f"cfg/{key}"])
                for name, key in {
                    "text_side": "side_text",
                    "piece": "piece",
                    "region": "region",
                    "object_word": "object",
                    "spread": "spread",
                    "spread_overlap": "spread_iou",
                    "least_affinity": "affinity_threshold",
                    "affinity_ratio": "affinity_ratio",
                }.items()
            }
        )

    @cached_property
    def priors(self) -> Priors:
        return Priors.read(next(self.folder.glob("mini/annotations/*/*.json")))

    @cached_property
    def vectors(self) -> WordVectors:
        return WordVectors.read(self.folder / "mini/word_vectors.npz")

    @cache  # noqa: B019
    def graph(self, item: int) -> SceneGraph:
        row = self.items[item]
        parts = ([tuple(map(tuple, entry)) for entry in row[name]] for name in ("objs", "attrs", "rels"))
        objects, attributes, relations = parts
        graph, missing = self.priors.graph(([words for (words,) in objects], attributes, relations), row["lemmas"])
        assert not missing
        return graph

    @cache  # noqa: B019 (lives as long as the module's tests)
    def pieces(self, item: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the pieces among all positions, and the word of each."""
        words = self.exact["text/word_of_piece"][item]
        places = np.flatnonzero(words >= 0)
        return places, words[places]

    def chances(self, item: int) -> NDArray[np.float32]:
        return word_chances(self.graph(item), self.items[item]["lemmas"], self.rates)

    def file(self, image: int) -> Any:
        row = self.content["images"][image]
        folder = {"coco": "mscoco", "genome": "visualgenome"}.get(row["img_src"], row["img_src"])
        return np.load(self.folder / f"mini/imgfeats/{folder}_bua_r101_fix36/npz_files/{row['img_file']}.npz")

    @cached_property
    def boxes(self) -> list[NDArray[np.float32]]:
        return [self.file(image)["boxes"] for image in range(len(self.content["images"]))]

    @cached_property
    def class_vectors(self) -> list[NDArray[np.float32]]:
        return [self.vectors.of(row["class_names"]) for row in self.content["images"]]

    @cached_property
    def overlaps(self) -> list[NDArray[np.float32]]:
        return [overlaps(boxes) for boxes in self.boxes]

    def word_affinity(self, item: int, image: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The different words that are objects and are left (W,), and their affinities (W, R)."""
        words = np.unique(self.graph(item).object_words)
        words = words[words < self.exact["text/words_kept"][item]]
        lemmas = [self.items[item]["lemmas"][word] for word in words]
        return words, affinity(self.vectors.of(lemmas), self.class_vectors[image], self.rates.least_affinity)

    def mean_affinity(self, item: int, image: int) -> NDArray[np.float32]:
        words, found = self.word_affinity(item, image)
        _, word_of_piece = self.pieces(item)
        return mean_affinity(found, np.array([(word_of_piece == word).sum() for word in words], np.int64))
