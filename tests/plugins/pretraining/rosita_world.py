"""The made-up set of the original, imported by our commands, and the task on it with numbers that the original drew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rosita_goldens import Goldens

from vlrun import Encoding, RegionFeatureStore, Unmasked
from vlrun.blocks.wordpiece import WordPiece
from vlrun.cli import main
from vlrun_pretraining import task as task_module
from vlrun_pretraining.config import PretrainConfig, RositaPretrainingConfig
from vlrun_pretraining.dataset import RositaTexts
from vlrun_pretraining.task import PretrainTask
from vlrun_rosita.text import RositaPairEncoder

LOSSES = ["words", "features", "classes", "attributes", "matching", "transport"]


class Recorded:
    """The numbers of one trace, by the purposes of our rules, in place of ``Draws`` and of its generator."""

    def __init__(self, trace: dict[str, Any], items: int) -> None:
        self.trace, self.items = trace, items
        region = trace["region_random_item"]
        self.changed = iter(np.stack([region, trace["region_random_region"]], 1)[region >= 0].tolist())
        self.region, self.others = 0, 0

    def uniform(self, purpose: str, count: int) -> Any:
        trace = self.trace
        names = {
            "match": "match",
            "side": "side",
            "words": "piece",
            "objects": "object",
            "said words": "word",
            "word fate": "text_change",
            "regions": "region",
            "near regions": "affinity",
            "regions spread": "region_spread",
            "near regions spread": "affinity_spread",
            "region fate": "region_change",
        }
        values = np.atleast_1d(trace[names[purpose]])
        if purpose in ("words", "word fate", "region fate"):
            values = values[~np.isnan(values)]
            assert len(values) == count
        return np.nan_to_num(values[:count], nan=1.0)  # what the original did not need decides nothing

    def below(self, purpose: str, limit: int, count: int) -> Any:
        if purpose == "other":
            self.others += 1
            assert (limit, self.others) == (self.items, 1), "the image shown is that of another one at once"
            return np.array([self.trace["shown_item"]])
        if purpose == "word":
            drawn = self.trace["text_change"]
            return self.trace["text_random_id"][~np.isnan(drawn)]
        if purpose == "region item":
            item, self.region = next(self.changed)
            return np.array([item])
        assert purpose == "region"
        return np.array([self.region])


@dataclass(frozen=True)
class World:
    """What our commands made of the set."""

    goldens: Goldens
    dataset: RositaTexts
    config: RositaPretrainingConfig
    store: RegionFeatureStore
    encoder: RositaPairEncoder

    @classmethod
    def made(cls, goldens: Goldens, folder: Path) -> World:
        mini, annotations, features = goldens.folder / "mini", folder / "annotations", folder / "features"
        assert main(["data", "build", "rosita-pretraining", "--from", "rosita", str(mini), str(annotations)]) == 0
        build = ["features", "build", "--dtype", "float32", str(mini / "imgfeats"), str(features)]
        assert main(build) == 0
        vectors = (mini / "word_vectors.npz").read_bytes()
        (annotations / "word_vectors.npz").write_bytes(vectors)
        config = RositaPretrainingConfig(
            name="rosita-pretraining",
            annotations=annotations,
            features=features,
            train=["pt-coco"],
            evaluate=["pt-coco"],
        )
        join_as_the_original_does(annotations, "pt-coco")
        sizes = {name: int(goldens.exact[f"cfg/{name}"]) for name in ("text_length", "regions", "feature_width")}
        encoder = RositaPairEncoder(WordPiece(mini / "vocab.txt"), *sizes.values())
        return cls(goldens, RositaTexts(config, "pt-coco"), config, RegionFeatureStore(features), encoder)

    def task(self, **options: Any) -> PretrainTask:
        exact = self.goldens.exact
        masking = {
            "name": "knowledge",
            "words": float(exact["cfg/piece"]),
            "regions": float(exact["cfg/region"]),
            "text_side": float(exact["cfg/side_text"]),
            "object_word": float(exact["cfg/object"]),
            "spread": float(exact["cfg/spread"]),
            "spread_overlap": float(exact["cfg/spread_iou"]),
            "least_affinity": float(exact["cfg/affinity_threshold"]),
            "affinity_ratio": float(exact["cfg/affinity_ratio"]),
        }
        task = PretrainTask(
            PretrainConfig(name="pretrain", dataset=self.config, losses=LOSSES, masking=masking, **options)
        )
        task.start_training(self.dataset, 0)
        return task

    def replayed(self, task: PretrainTask, traces: list[dict[str, Any]], items: list[int]) -> tuple[Encoding, Any, Any]:
        """What the task makes of items with the numbers of their traces: encoding, targets, pairs."""
        draws: list[Any] = [Recorded(trace, len(self.dataset)) for trace in traces]
        examples = [self.dataset[item] for item in items]
        with mock.patch.object(task_module, "Draws", lambda recorded: recorded):
            pairs = [task.pairs(example, own)[0] for example, own in zip(examples, draws, strict=True)]
            regions = self.store.read_with_classes([pair.image_id for pair in pairs])
            encoding = self.encoder(pairs, regions)
            wordpiece, read = self.encoder.wordpiece, self.store.read_with_classes
            unmasked = Unmasked(examples, pairs, regions, encoding, draws, wordpiece, read)
            return *task.mask(unmasked), pairs


def join_as_the_original_does(annotations: Path, name: str) -> None:
    """All sets, those that are held out too, in one file, in the original's order of items."""
    sets = ["pt-coco", "pt-conceptual", "pt-sbu", "pt-vg"]
    lines = [line for path in annotations.glob("*.jsonl") for line in path.read_text().splitlines()]

    def order(line: str) -> tuple[int, int]:
        set_name, _, number = json.loads(line)["id"].rpartition("_")
        return sets.index(set_name), int(number)

    (annotations / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in sorted(lines, key=order)))
