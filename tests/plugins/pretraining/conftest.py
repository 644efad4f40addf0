"""A small vocabulary, a network that knows it, six images with features, and captions of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, Pair, PairEncoder, RegionBatch, RegionFeatures
from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun.features.writer import write_store
from vlrun_pretraining.config import CocoCaptionsConfig, PretrainConfig
from vlrun_pretraining.dataset import CocoCaptions
from vlrun_pretraining.task import PretrainTask

WIDTH, HIDDEN = 6, 8
CLASSES, ATTRIBUTES = 5, 4
WORDS = ["a", "cat", "dog", "##s", "red", "blue", "on", "the", "left", "."]
NUM_IMAGES = {"train": 4, "val": 3}
CAPTIONS = ["a red cat", "the blue dogs on the left .", "cats"]


@pytest.fixture
def wordpiece(tmp_path: Path) -> WordPiece:
    path = tmp_path / "vocabulary.txt"
    path.write_text("".join(f"{token}\n" for token in [*SPECIAL_TOKENS, *WORDS]))
    return WordPiece(path)


class TinyBackbone(Backbone):
    """Sums: enough for every state to depend on both modalities."""

    hidden_size = HIDDEN

    def __init__(self, wordpiece: WordPiece | None) -> None:
        super().__init__()
        self.wordpiece = wordpiece
        self.words = nn.Embedding(wordpiece.size if wordpiece else 1, HIDDEN)
        self.features = nn.Linear(WIDTH, HIDDEN)
        self.itm = nn.Linear(HIDDEN, 2)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        assert self.wordpiece is not None
        return TinyEncoder(self.wordpiece, max_text_tokens)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        text = self.words(encoding.token_ids) * encoding.text_mask[..., None]
        regions = self.features(encoding.region_features.float()) * encoding.region_mask[..., None]
        both = text.sum(1, keepdim=True) + regions.sum(1, keepdim=True)
        return BackboneOutput(text + both, regions + both, both[:, 0].tanh(), encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return self.itm


class TinyEncoder:
    def __init__(self, wordpiece: WordPiece, max_tokens: int) -> None:
        self.wordpiece, self.max_tokens = wordpiece, max_tokens

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        ids, mask = self.wordpiece.encode_batch([pair.text for pair in pairs], self.max_tokens)
        boxes = torch.from_numpy(regions.boxes) / 100
        parts = (torch.from_numpy(part) for part in (ids, mask, regions.features))
        return Encoding(*parts, boxes, torch.from_numpy(regions.mask))


def region_features(image_id: str, num_regions: int = 3) -> RegionFeatures:
    rng = np.random.default_rng([*image_id.encode()])
    boxes = np.tile(np.array([1, 2, 50, 60], np.float32), (num_regions, 1))
    features = rng.normal(size=(num_regions, WIDTH)).astype(np.float16)
    classes, attributes = (rng.integers(limit, size=num_regions).astype(np.int32) for limit in (CLASSES, ATTRIBUTES))
    scores = rng.uniform(0.2, 0.9, (2, num_regions)).astype(np.float32)
    return RegionFeatures(image_id, features, boxes, 100, 100, classes, attributes, *scores)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Annotations of train and val, and a store in which one image of val is missing."""
    ids = [f"{split}{index}" for split, count in NUM_IMAGES.items() for index in range(count)]
    write_store(tmp_path / "features", [region_features(image, 3 - index % 2) for index, image in enumerate(ids)])
    for split, count in {"train": 4, "val": 4}.items():
        rows = [
            {"id": f"{split}{image}-{number}", "text": text, "image": f"{split}{image}"}
            for image in range(count)
            for number, text in enumerate(CAPTIONS)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


@pytest.fixture
def make_dataset(data: Path) -> Callable[[str], CocoCaptions]:
    config = CocoCaptionsConfig(name="coco-captions", annotations=data, features=data / "features", evaluate=["val"])
    return lambda split: CocoCaptions(config, split)


@pytest.fixture
def make_task(data: Path) -> Callable[..., PretrainTask]:
    def make(**options: Any) -> PretrainTask:
        dataset = {"name": "coco-captions", "annotations": data, "features": data / "features", "evaluate": ["val"]}
        config = CocoCaptionsConfig(**dataset)
        sizes = {"num_classes": CLASSES, "num_attributes": ATTRIBUTES}
        return PretrainTask(PretrainConfig(**{"name": "pretrain", "dataset": config, **sizes, **options}))

    return make


@pytest.fixture
def backbone(wordpiece: WordPiece) -> TinyBackbone:
    torch.manual_seed(0)
    return TinyBackbone(wordpiece)


@pytest.fixture
def without_words() -> TinyBackbone:
    return TinyBackbone(None)


@pytest.fixture
def make_encoding(wordpiece: WordPiece) -> Callable[..., Encoding]:
    """``make_encoding(texts)``: each with an image of four regions, the last of every second one being padding."""

    def make(texts: Sequence[str], num_regions: int = 4) -> Encoding:
        ids, mask = wordpiece.encode_batch(texts, 20)
        region_mask = torch.ones(len(texts), num_regions, dtype=torch.bool)
        region_mask[1::2, -1] = False
        features = torch.arange(1.0, 1 + len(texts) * num_regions * WIDTH).view(len(texts), num_regions, WIDTH)
        boxes: Tensor = torch.rand(len(texts), num_regions, 4)
        return Encoding(torch.from_numpy(ids), torch.from_numpy(mask), features, boxes, region_mask)

    return make


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A list of four answers."""
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(["yes", "no", "2", "red"]))
    return path
