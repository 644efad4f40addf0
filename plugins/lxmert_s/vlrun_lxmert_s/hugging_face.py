"""LXMERT in the layout of Hugging Face transformers, which has our names but for the heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlrun_lxmert_s.checkpoint import ANSWER_HEAD, HEAD_LAYERS, MATCHING_HEAD, TRUNK

PREFIX = "lxmert."
"""Before the names of the network in classes that have a head; the network's own class does without."""


def export_hf_lxmert(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Names and configuration for ``LxmertModel``, or for the class that has the head which is there.

    The matching head is part of ``LxmertForPreTraining`` alone, whose other heads (words, objects) are in none of our
    files: transformers makes random ones and says so. NLVR2's head has no class there and stays behind.

    Args:
        options: those of the backbone ``lxmert``.
    """
    indices = {name: index for index, name in HEAD_LAYERS.items()}
    exported = {f"{PREFIX}{name}": tensor for name, tensor in tensors.items() if name.startswith(TRUNK)}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == MATCHING_HEAD:
            exported[f"cls.{name}"] = tensor
        elif part == ANSWER_HEAD:
            layer, _, kind = rest.partition(".")
            exported[f"{ANSWER_HEAD}.logit_fc.{indices[layer]}.{kind}"] = tensor
    answers = len(tensors[f"{ANSWER_HEAD}.dense1.bias"]) if f"{ANSWER_HEAD}.dense1.bias" in tensors else 0
    matches = f"{MATCHING_HEAD}.weight" in tensors
    architecture = "LxmertForPreTraining" if matches else "LxmertForQuestionAnswering" if answers else "LxmertModel"
    config = {
        "architectures": [architecture],
        "model_type": "lxmert",
        "vocab_size": len(tensors["embeddings.word_embeddings.weight"]),
        "type_vocab_size": len(tensors["embeddings.token_type_embeddings.weight"]),
        "hidden_size": options["hidden_size"],
        "num_attention_heads": options["num_heads"],
        "intermediate_size": options["feed_forward_size"],
        "l_layers": options["num_language_layers"],
        "x_layers": options["num_cross_layers"],
        "r_layers": options["num_object_layers"],
        "max_position_embeddings": options["max_positions"],
        "visual_feat_dim": options["region_feature_size"],
        "visual_pos_dim": tensors["encoder.visn_fc.box_fc.weight"].shape[1],
        "hidden_act": "gelu",
        "task_matched": matches,
        "task_qa": bool(answers),
    }
    return exported, config | ({"num_qa_labels": answers} if answers else {})
