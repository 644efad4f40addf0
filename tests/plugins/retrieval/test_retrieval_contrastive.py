"""The contrastive loss of two towers: CLIP's, but for captions of the same image, which are right answers, too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlrun import ConfigError, Encoding, Example, Pair
from vlrun.blocks.heads import TwoTowerHead
from vlrun.testing import StubBackbone, make_regions
from vlrun_retrieval.config import RetrievalConfig
from vlrun_retrieval.contrastive import ContrastiveRetrieval, TowerOutputs, make_task
from vlrun_retrieval.dataset import Caption

DATASET = {"name": "flickr30k", "annotations": "annotations", "features": "features", "evaluate": ["val"]}


def config(**options: Any) -> RetrievalConfig:
    given = {"name": "retrieval", "dataset": DATASET, "loss": "contrastive", "negatives": {"name": "in-batch"}}
    return RetrievalConfig.model_validate({**given, **options})


@pytest.fixture
def task() -> ContrastiveRetrieval:
    made = make_task(config())
    assert isinstance(made, ContrastiveRetrieval)
    return made


def examples(*images: str) -> list[Example[Caption]]:
    return [Example(f"{number}", f"caption {number}", (image,), Caption(number)) for number, image in enumerate(images)]


def contrast(task: ContrastiveRetrieval, images: list[str], text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The loss of a step of these pairs."""
    head = SimpleNamespace(layer=TwoTowerHead(1.5))
    regions, nothing = make_regions(images, 4), torch.zeros(len(images), 1)
    encoding = Encoding(nothing.long(), nothing.bool(), nothing[..., None], nothing[..., None], nothing.bool())
    targets = task.collate(examples(*images), regions, encoding)
    outputs = TowerOutputs(torch.zeros(len(images), 2), text, image)
    assert task.loss(outputs, targets) == task.loss_counts(targets) == {}
    (loss,) = task.batch_loss(task.shared_rows(outputs, targets), SimpleNamespace(head=head)).values()  # type: ignore[arg-type]
    return loss.detach()


def vectors(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_is_that_of_clip_in_transformers(task: ContrastiveRetrieval) -> None:
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    text, image = vectors(6, 0), vectors(6, 1)

    loss = contrast(task, [f"image {number}" for number in range(6)], text, image)

    assert float(loss) == pytest.approx(float(clip.image_text_contrastive_loss(np.exp(1.5) * text @ image.T)), rel=1e-6)


def test_other_captions_of_an_image_are_no_wrong_answers(task: ContrastiveRetrieval) -> None:
    text, image = vectors(4, 0), vectors(4, 1)
    image[2] = image[0]
    scores = np.exp(1.5) * (image @ text.T)
    own = torch.arange(4)
    scores[0, 2] = scores[2, 0] = -torch.inf
    expected = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    assert torch.allclose(contrast(task, ["a", "b", "a", "c"], text, image), expected)


def test_a_caption_has_one_pair(task: ContrastiveRetrieval) -> None:
    (example,) = examples("a")
    assert not task.in_batch
    assert task.pairs(example, np.random.default_rng(0)) == [Pair("caption 0", "a")]


def test_a_backbone_that_looks_at_pairs_is_refused(task: ContrastiveRetrieval) -> None:
    with pytest.raises(ConfigError, match="loss 'contrastive' compares vectors of texts and images, and the backbone"):
        task.build_head(StubBackbone())


def test_what_pairs_are_told_from_is_written_down() -> None:
    with pytest.raises(ValueError, match=r"set negatives\.name=in-batch"):
        config(negatives={"name": "random"})


def test_predictions_are_those_of_the_matching_head(task: ContrastiveRetrieval) -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, -1.0]])
    outputs = TowerOutputs(logits, vectors(2, 0), vectors(2, 1))
    batch: Any = SimpleNamespace(ids=("1", "2"))
    predictions = task.predict(task.decode(outputs, batch), batch)
    assert [prediction.fields["score"] for prediction in predictions] == [2.0, -1.0]
    assert not isinstance(make_task(config(loss="triple")), ContrastiveRetrieval)
