"""Files as the authors, Hugging Face and BERT's authors would save the small networks of these tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlrun import WeightFormat
from vlrun.engine.weight_files import import_weights
from vlrun_lxmert_s.model import Lxmert

MATCHING = ("seq_relationship.weight", "seq_relationship.bias")


def authors_state(network: Lxmert, prefix: str = "bert.") -> dict[str, Tensor]:
    """The backbone as the authors would save it."""
    state = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items() if "seq_relation" not in name}
    table = f"{prefix}word_embeddings.weight"
    if table in state:
        rows = torch.rand(20, state[table].shape[1])
        rows[2] = state[table][0]
        state[table] = rows
    return state


def pretraining_heads(name: str) -> dict[str, Tensor]:
    hidden, vocabulary = 8, 20
    shapes: dict[str, tuple[int, ...]] = {
        "cls.predictions.bias": (vocabulary,),
        "cls.predictions.decoder.weight": (vocabulary, hidden),
        "cls.seq_relationship.weight": (2, hidden),
        "cls.seq_relationship.bias": (2,),
        "obj_predict_head.decoder_dict.obj.weight": (5, hidden),
    }
    if name == "lxmert-s":
        shapes.update({"cls.seq_relationship_new.weight": (vocabulary, hidden), "cls.LayerNorm.bias": (vocabulary,)})
    return {**{key: torch.rand(shape) for key, shape in shapes.items()}, **answer_layers("answer_head.")}


def answer_layers(prefix: str, images: int = 1, answers: int = 7) -> dict[str, Tensor]:
    shapes = {"0.weight": (16, 8 * images), "0.bias": (16,), "2.weight": (16,), "2.bias": (16,)}
    shapes.update({"3.weight": (answers, 16), "3.bias": (answers,)})
    return {f"{prefix}logit_fc.{key}": torch.rand(shape) for key, shape in shapes.items()}


def bert_state(network: Lxmert, prefix: str, old_names: bool, num_layers: int = 12) -> dict[str, Any]:
    """BERT of the sizes of ``network``, which must have a language layer."""
    state = dict(network.state_dict())
    content = {name: torch.rand_like(state[name]) for name in state if name.startswith(("embeddings.", "pooler."))}
    layer = [name for name in state if name.startswith("encoder.layer.0.")]
    for index in range(num_layers):
        content.update({name.replace(".0.", f".{index}.", 1): torch.rand_like(state[name]) for name in layer})
    if old_names:
        new = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
        for ours, theirs in new.items():
            content = {name.replace(ours, theirs): tensor for name, tensor in content.items()}
    named = {f"{prefix}{name}": tensor for name, tensor in content.items()}
    others = {"cls.seq_relationship.weight": torch.rand(2, 8)} if prefix else {}
    return {**named, **others, f"{prefix}embeddings.position_ids": torch.arange(12)}


def imported(content: Mapping[str, Any], folder: Path, weight_format: WeightFormat, suffix: str = ".pth") -> Path:
    source = folder / f"source{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, source)
    else:
        torch.save(dict(content), source)
    import_weights(source, folder / "imported.safetensors", weight_format)
    return folder / "imported.safetensors"


def trunk_of(network: Lxmert) -> dict[str, Tensor]:
    """What every file has of a network: all but the matching head."""
    return {name: tensor for name, tensor in network.state_dict().items() if name not in MATCHING}


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
