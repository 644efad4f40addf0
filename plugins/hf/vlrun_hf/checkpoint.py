"""Weights in the layouts of transformers: names of a class with heads, or of the bare network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlrun import CheckpointError, first_few

_TYPES = "vilt.embeddings.token_type_embeddings.weight"


def translate_vilt(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``ViltModel``, or ``ViltForMaskedLM`` and others with ``vilt.`` before its names.

    The head of ``ViltForImageAndTextRetrieval`` has one output, the logit of a match; ours gets 0 for the other class.
    A second kind of image starts as the first, as the authors do for NLVR2. Classifiers of answers stay behind: their
    norm stands elsewhere.

    Raises:
        CheckpointError: this is no such file.
    """
    tensors = _floats(content)
    if "embeddings.patch_embeddings.projection.weight" in tensors:
        tensors = {f"vilt.{name}": tensor for name, tensor in tensors.items()}
    trunk = {name: tensor for name, tensor in tensors.items() if name.startswith(("vilt.", "mlm_score."))}
    if _TYPES not in trunk:
        raise CheckpointError(f"not a file of ViLT of transformers; it begins with {_beginning(content)}")
    if len(trunk[_TYPES]) == 2:
        trunk[_TYPES] = trunk[_TYPES][[0, 1, 1]]
    if "rank_output.weight" in tensors:
        for name in ("weight", "bias"):
            rank = tensors[f"rank_output.{name}"]
            trunk[f"itm_score.{name}"] = torch.cat([torch.zeros_like(rank), rank])
    return trunk


def translate_clip(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``CLIPModel``; the matching head gets its scale, and a bias of 0.

    Raises:
        CheckpointError: this is no such file.
    """
    tensors = _floats(content)
    kept = ("text_model.", "vision_model.", "text_projection.", "visual_projection.")
    towers = {name: tensor for name, tensor in tensors.items() if name.startswith(kept)}
    if "logit_scale" not in tensors or "text_projection.weight" not in towers:
        raise CheckpointError(f"not a file of CLIPModel of transformers; it begins with {_beginning(content)}")
    scale = tensors["logit_scale"].reshape(())
    return {**towers, "matching.logit_scale": scale, "matching.bias": torch.zeros_like(scale)}


def translate_visualbert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``VisualBertModel``, or ``VisualBertForPreTraining`` and others with ``visual_bert.`` before its names.

    In ``seq_relationship`` class 0 is a match (``sentence_image_labels`` of transformers), in ours class 1. The decoder
    of words and classifiers of answers stay behind.

    Raises:
        CheckpointError: this is no such file.
    """
    return _bert_like(content, "visual_bert.", "embeddings.visual_projection.weight", "VisualBERT", swaps=True)


def translate_lxmert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``LxmertModel``, or ``LxmertForPreTraining`` and others with ``lxmert.`` before its names; class 1 is a match.

    Raises:
        CheckpointError: this is no such file.
    """
    return _bert_like(content, "lxmert.", "encoder.visn_fc.visn_fc.weight", "LXMERT", swaps=False)


def translate_oscar(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The files of Oscar and VinVL: BERT's names, and those of the regions in between.

    Of the classes of ``seq_relationship``, two or three, the first is a match and the last another image's text
    (``random_sent`` in oscar/datasets/oscar_tsv.py of github.com/microsoft/Oscar).

    Raises:
        CheckpointError: this is no such file.
    """
    tensors = _bert_like(content, "bert.", "img_embedding.weight", "Oscar", swaps=True)
    places = {"bert.img_embedding.": "img_embedding.", "bert.LayerNorm.": "img_norm."}
    for theirs, ours in places.items():
        tensors = {
            ours + name.removeprefix(theirs) if name.startswith(theirs) else name: t for name, t in tensors.items()
        }
    return tensors


def _bert_like(
    content: Mapping[str, Any], prefix: str, known_by: str, network: str, *, swaps: bool
) -> dict[str, Tensor]:
    """The network without the prefix of a class with heads, and its matching head with class 1 for a match."""
    tensors = _floats(content)
    if known_by in tensors:
        tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    if f"{prefix}{known_by}" not in tensors:
        raise CheckpointError(f"not a file of {network}; it begins with {_beginning(content)}")
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name in ("weight", "bias"):
        if (rows := tensors.get(f"cls.seq_relationship.{name}")) is not None:
            found[f"seq_relationship.{name}"] = rows[[-1, 0]] if swaps else rows
    return found


def _floats(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The floating-point tensors: others are numbers of positions, which the network makes itself."""
    return {
        str(name): value for name, value in content.items() if isinstance(value, Tensor) and value.is_floating_point()
    }


def _beginning(content: Mapping[str, Any]) -> str:
    return ", ".join(first_few(list(map(str, content)), 5)) or "nothing"
