"""The world can be learned, and only by reading: a model of a few lines finds referents, unless its texts are mixed up.

The model scores a region by the product of what it sees in it and the sum of what the words mean; it stands for any
backbone, of which these tests know nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vlrun.blocks.boxes import iou
from vlrun_demo.images import Image
from vlrun_demo.provider import VOCABULARY
from vlrun_demo.regions import FEATURE_SIZE, region_features
from vlrun_demo.world import images
from vlrun_rec.demo.files import referents_of

pytestmark = pytest.mark.usefixtures("one_thread")

_TRAIN_IMAGES = 250
_WORDS = {word: number for number, word in enumerate(VOCABULARY.read_text().split(), 1)}


@dataclass(frozen=True)
class Expressions:
    """N expressions: words (N, W), features and places of regions (N, R, F), and which regions are right (N, R)."""

    texts: list[str]
    regions: Tensor
    is_right: Tensor

    def words(self) -> Tensor:
        rows = [[_WORDS[word] for word in text.split()] for text in self.texts]
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])


class WordsTimesRegions(nn.Module):
    """Scores (N, R) of each region for each text."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.meaning = nn.EmbeddingBag(len(_WORDS) + 1, size, mode="sum", padding_idx=0)
        self.seeing = nn.Sequential(nn.Linear(FEATURE_SIZE + 4, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, words: Tensor, regions: Tensor) -> Tensor:
        return torch.einsum("nh,nrh->nr", self.meaning(words), self.seeing(regions))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers and matrices of these tests are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits() -> dict[str, Expressions]:
    chosen = {
        "train": [image for image in images() if image.split == "train"][:_TRAIN_IMAGES],
        "test": [image for image in images() if image.split.startswith("test")],
    }
    return {split: _expressions(of_split) for split, of_split in chosen.items()}


def _expressions(chosen: list[Image]) -> Expressions:
    texts, rows, right = [], [], []
    shown = {image.id: image for image in chosen}
    for referent in referents_of("refcoco+", chosen):
        found = region_features(shown[referent.image.id].scene, "image")
        places = found.boxes / (found.width, found.height, found.width, found.height)
        overlaps = iou(found.boxes, np.array([referent.thing.box], np.float32), "plus_one")
        for expression in referent.expressions:
            texts.append(expression.sent)
            rows.append(np.concatenate([found.features, places], axis=1))
            right.append(overlaps >= 0.5)
    return Expressions(texts, torch.tensor(np.array(rows), dtype=torch.float32), torch.tensor(np.array(right)))


def accuracy_after_training(train: Expressions, test: Expressions, epochs: int = 15) -> float:
    """Percent of test expressions for which the best region is right; a random region is in 8 to 9."""
    torch.manual_seed(0)
    model = WordsTimesRegions()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    words = train.words()
    learnable = train.is_right.any(dim=1).nonzero()[:, 0]
    for _ in range(epochs):
        for rows in learnable[torch.randperm(len(learnable))].split(64):
            chances = model(words[rows], train.regions[rows]).softmax(dim=-1)
            loss = -(chances * train.is_right[rows]).sum(dim=-1).log().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    best = model(test.words(), test.regions).argmax(dim=-1, keepdim=True)
    return 100 * test.is_right.gather(1, best).float().mean().item()


def test_words_and_regions_together_find_the_referent(splits: dict[str, Expressions]) -> None:
    assert accuracy_after_training(splits["train"], splits["test"]) > 80


def test_shuffled_expressions_teach_nothing(splits: dict[str, Expressions]) -> None:
    train = splits["train"]
    mixed_up = Expressions(random.Random(0).sample(train.texts, len(train.texts)), train.regions, train.is_right)

    assert accuracy_after_training(mixed_up, splits["test"]) < 25


def test_regions_alone_do_not_tell_the_referent(splits: dict[str, Expressions]) -> None:
    train, test = (
        Expressions(["the thing"] * len(split.texts), split.regions, split.is_right) for split in splits.values()
    )

    assert accuracy_after_training(train, test) < 25
