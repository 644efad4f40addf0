"""LXMERT in the layout of Hugging Face transformers, which has our names but for the heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlrun_lxmert_s.checkpoint import TRUNK, heads_in_their_names

PREFIX = "lxmert."
"""Before the names of the network in classes that have a head; the network's own class does without."""

TOPICS = ("cls.seq_relationship_new.", "cls.LayerNorm.")


def export_hf_lxmert(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Names and configuration for ``LxmertModel``, or for the class that has the heads which are there.

    ``LxmertForPreTraining`` has them all; of those that are not there, transformers makes random ones and says so. A
    decoder of words that is tied to the word embeddings is stored with them. NLVR2's head has no class there and stays
    behind, LXMERT-S's topic head too.

    Args:
        options: those of the backbone ``lxmert``.
    """
    exported = {f"{PREFIX}{name}": tensor for name, tensor in tensors.items() if name.startswith(TRUNK)}
    exported |= {name: tensor for name, tensor in heads_in_their_names(tensors).items() if not name.startswith(TOPICS)}
    answers = _rows(exported, "answer_head.logit_fc.3.bias")
    decoders = {name: _rows(exported, f"obj_predict_head.decoder_dict.{name}.bias") for name in ("obj", "attr", "feat")}
    words, matches = "cls.predictions.bias" in exported, "cls.seq_relationship.weight" in exported
    is_pretrained = words or matches or any(decoders.values())
    architecture = (
        "LxmertForPreTraining" if is_pretrained else "LxmertForQuestionAnswering" if answers else "LxmertModel"
    )
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
        "tie_word_embeddings": "cls.predictions.decoder.weight" not in exported,
        "task_matched": matches,
        "task_mask_lm": words,
        "task_obj_predict": any(decoders.values()),
        **{f"visual_{name}_loss": bool(rows) for name, rows in decoders.items()},
        "task_qa": bool(answers),
    }
    sizes = {"num_qa_labels": answers, "num_object_labels": decoders["obj"], "num_attr_labels": decoders["attr"]}
    return exported, config | {name: rows for name, rows in sizes.items() if rows}


def _rows(tensors: Mapping[str, Tensor], bias: str) -> int:
    return len(tensors[bias]) if bias in tensors else 0
