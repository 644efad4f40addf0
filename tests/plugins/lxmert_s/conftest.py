"""LXMERT-S and LXMERT of any size without the real vocabulary, and as they are in the golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun_lxmert_s.checkpoint import MATCHING_HEAD, translate_lxmert, translate_lxmert_s
from vlrun_lxmert_s.config import Sizes
from vlrun_lxmert_s.model import Lxmert, LxmertS

CLASSES = {"lxmert-s": LxmertS, "lxmert": Lxmert}
VISUAL_CLS_TABLE = "word_embeddings.weight"


def write_vocabulary(path: Path, size: int) -> Path:
    words = ["a", "cat", "dog", "##s", "on", "the", "left", "#", ",", "'", "["]
    tokens = [*SPECIAL_TOKENS, *words, *(f"[unused{n}]" for n in range(size))][:size]
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.fixture
def make_network(tmp_path: Path) -> Callable[..., Lxmert]:
    """Builds a small network; any of its sizes can be given, and the size of the vocabulary."""

    def make(name: str, vocabulary_size: int = 20, **options: Any) -> Lxmert:
        wordpiece = WordPiece(write_vocabulary(tmp_path / f"vocabulary_{vocabulary_size}.txt", vocabulary_size))
        own_layers = 1 if name == "lxmert" else 0
        sizes = {
            "hidden_size": 8,
            "num_heads": 2,
            "feed_forward_size": 16,
            "num_language_layers": own_layers,
            "num_cross_layers": 2,
            "num_object_layers": own_layers,
            "max_positions": 12,
        }
        others: dict[str, Any] = {"region_feature_size": 6, "num_regions": 3, "dropout": 0.1}
        given = {key: options.pop(key) for key in list(options) if key in sizes}
        return CLASSES[name](wordpiece, Sizes(**{**sizes, **given}), **{**others, **options})

    return make


@dataclass
class GoldenNetwork:
    """A network filled with the parameters of a file of vectors, by way of the importer.

    Attributes:
        vectors: the arrays of the file.
        heads: what the importer gave beside the backbone, by neutral name.
        prefix: what the authors' names of the backbone have before ours.
        cls_id: id of [CLS] in their vocabulary.
        vocabulary_size: how many tokens it has.
    """

    vectors: Mapping[str, Any]
    network: Lxmert
    heads: dict[str, Tensor]
    prefix: str
    cls_id: int
    vocabulary_size: int

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.vectors[name])

    def array(self, folder: str, name: str) -> np.ndarray[Any, Any]:
        """The authors' array for our parameter ``name`` of the backbone; of the visual [CLS] table, our one row."""
        array = self.vectors[f"{folder}/{self.prefix}{name}"]
        return array[self.cls_id : self.cls_id + 1] if name == VISUAL_CLS_TABLE else array


@pytest.fixture
def golden_network(golden: Path) -> Callable[[str], GoldenNetwork]:
    def load(file: str) -> GoldenNetwork:
        vectors = dict(np.load(golden / "lxmert_s" / f"{file}.npz"))
        size = {key.removeprefix("config/"): int(vectors[key]) for key in vectors if key.startswith("config/")}
        sizes = Sizes(
            size["hidden_size"],
            size["num_attention_heads"],
            size["intermediate_size"],
            size["l_layers"],
            size["x_layers"],
            size["r_layers"],
            size["max_position_embeddings"],
        )
        wordpiece = WordPiece(golden / "lxmert_s" / "tiny_vocab.txt")
        assert wordpiece.size == size["vocab_size"]
        features = vectors["in/feats" if "in/feats" in vectors else "in/step0/feats"]  # (..., regions, width)
        options = {"region_feature_size": size["visual_feat_dim"], "num_regions": features.shape[-2], "dropout": 0.0}
        state = {
            key.removeprefix("state/"): torch.from_numpy(vectors[key]) for key in vectors if key.startswith("state/")
        }
        prefix = "bert." if "state/bert.pooler.dense.bias" in vectors else "lxrt_encoder.model.bert."
        if file.endswith("_lxmert"):
            network, tensors = Lxmert(wordpiece, sizes, **options), translate_lxmert(state)
        else:
            network, tensors = LxmertS(wordpiece, sizes, **options), translate_lxmert_s(state, cls_id=wordpiece.cls_id)
        if f"{MATCHING_HEAD}.weight" not in tensors:
            del network.seq_relationship  # nor has the authors' network here, and all of its parameters are compared
        own = set(network.state_dict())
        network.load_state_dict({name: tensor for name, tensor in tensors.items() if name in own})
        heads = {name: tensor for name, tensor in tensors.items() if name not in own}
        return GoldenNetwork(vectors, network.eval(), heads, prefix, wordpiece.cls_id, wordpiece.size)

    return load
