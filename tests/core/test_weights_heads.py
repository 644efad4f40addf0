"""Heads that travel: several of one task, tied to the word embeddings or not, taken, left and made to fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_weights import ToyBackbone, toy_tensors

from vlrun.blocks.decoders import CLASSES, FEATURES, REGION_HEAD, WORD_HEAD, RegionHead, TopicHead, WordHead
from vlrun.engine.weight_files import write_imported
from vlrun.engine.weights import HeadSlot, LoadReport, load_weights
from vlrun.errors import CheckpointError
from vlrun.interfaces.heads import NamedHead


class WordyBackbone(ToyBackbone):
    """A toy that offers its word embeddings: 7 words, 2 wide."""

    hidden_size = 2

    def __init__(self, ties: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 2)
        self.ties = ties

    def word_table(self) -> nn.Parameter | None:
        return self.words.weight if self.ties else None


TABLE = torch.arange(14.0).reshape(7, 2)


def tensors_with(**heads: nn.Module) -> dict[str, Tensor]:
    """Weights of the toy with heads, the decoder of a word head stored with the word embeddings."""
    tensors = {**toy_tensors(), "words.weight": TABLE}
    for name, head in heads.items():
        tensors |= {f"{name}.{key}": value for key, value in head.state_dict().items() if key != "decoder.weight"}
    return tensors


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadReport]:
    def loaded(backbone: Any, tensors: dict[str, Tensor], named: dict[str, NamedHead], **facts: Any) -> LoadReport:
        path = tmp_path / "toy.safetensors"
        write_imported(path, tensors, {"backbone": "toy", "partial": False, **facts}, [])
        return load_weights(backbone, path, heads=[HeadSlot(n, h.module, h.adapt) for n, h in named.items()])

    return loaded


def test_every_head_that_a_task_names_is_filled(load: Callable[..., LoadReport]) -> None:
    trained = {WORD_HEAD: WordHead(2, 7), REGION_HEAD: RegionHead(2, {FEATURES: 3, CLASSES: 4})}
    backbone = WordyBackbone()
    words, regions = WordHead(2, 7, backbone.word_table()), RegionHead(2, {CLASSES: 4})

    report = load(backbone, tensors_with(**trained), {WORD_HEAD: words.named(), REGION_HEAD: regions.named()})

    assert torch.equal(words.transform.dense.weight, trained[WORD_HEAD].transform.dense.weight)
    assert torch.equal(regions.decoders[CLASSES].weight, trained[REGION_HEAD].decoders[CLASSES].weight)
    assert words.decoder.weight is backbone.words.weight
    assert torch.equal(backbone.words.weight, TABLE)
    assert report.remarks == (
        "word_head: taken, 5 tensors",
        "region_head: taken, 6 tensors",
        "region_head: its decoder of features left: this run does not guess them",
    )


def test_a_head_that_no_task_has_is_left_and_named(load: Callable[..., LoadReport]) -> None:
    """Also where the backbone does not know of it: an export may have it from a run of any task."""
    tensors = tensors_with(topic_head=TopicHead(2, 7), grounding_head=nn.Linear(2, 1))

    report = load(WordyBackbone(), tensors, {}, heads={"grounding_head": {}})

    assert sorted(report.remarks) == [
        "grounding_head: left, 2 tensors: no task here has such a head",
        "topic_head: left, 4 tensors: no task here has such a head",
    ]
    assert len(report.unused) == 6


def test_a_decoder_of_its_own_starts_from_the_word_embeddings_of_a_tied_file(load: Callable[..., LoadReport]) -> None:
    backbone, head = WordyBackbone(ties=True), WordHead(2, 7)

    load(backbone, tensors_with(word_head=WordHead(2, 7)), {WORD_HEAD: head.named()})

    assert torch.equal(head.decoder.weight, TABLE)
    assert head.decoder.weight is not backbone.words.weight


def test_a_decoder_that_is_not_the_word_embeddings_is_left_by_a_tied_head(load: Callable[..., LoadReport]) -> None:
    backbone = WordyBackbone()
    tied, own = WordHead(2, 7, backbone.word_table()), WordHead(2, 7)
    tensors = {**tensors_with(word_head=own), "word_head.decoder.weight": TABLE + 1}

    report = load(backbone, tensors, {WORD_HEAD: tied.named()})
    load(WordyBackbone(), tensors, {WORD_HEAD: own.named()})

    assert torch.equal(tied.decoder.weight, TABLE)
    assert torch.equal(own.decoder.weight, TABLE + 1)
    assert "'decoder.weight' is not 'words.weight' in the file; here they are one table" in report.remarks[-1]


def test_word_embeddings_that_are_the_decoder_are_no_news(load: Callable[..., LoadReport]) -> None:
    backbone = WordyBackbone()
    head = WordHead(2, 7, backbone.word_table())
    tensors = {**tensors_with(word_head=head), "word_head.decoder.weight": TABLE.clone()}

    assert load(backbone, tensors, {WORD_HEAD: head.named()}).remarks == ("word_head: taken, 5 tensors",)


def test_a_start_is_short_of_what_its_format_leaves_random_and_of_nothing_else(
    load: Callable[..., LoadReport],
) -> None:
    tensors = {name: tensor for name, tensor in tensors_with().items() if name != "words.weight"}
    start = {"partial": True, "random": ["words"], "format": "bert-toy"}

    report = load(WordyBackbone(), tensors, {}, **start)

    assert "words.weight" in report.missing
    assert report.remarks == ("words: 1 tensors start random, as they do from every file of format 'bert-toy'",)
    fewer = {name: tensor for name, tensor in tensors.items() if name not in ("layers.1", "layers.2", "layers.3")}
    with pytest.raises(CheckpointError, match="3 tensors are missing that a file of format 'bert-toy' has"):
        load(WordyBackbone(), fewer, {}, **start)


def test_a_file_that_lacks_a_part_without_being_a_start_stops(tmp_path: Path) -> None:
    tensors = {name: value for name, value in toy_tensors().items() if not name.startswith("layers.1")}
    save_file(tensors, tmp_path / "w.safetensors")

    with pytest.raises(CheckpointError, match="only 90 of the backbone's 201 tensors"):
        load_weights(ToyBackbone(), tmp_path / "w.safetensors")
