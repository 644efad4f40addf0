"""The authors' checkpoint layout: a dict of sub-module state dicts with local names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, equal

from vlrun import CheckpointError

TRUNK = ("text_embeddings", "visual_embeddings", "backbone", "pooler")
MATCHING_HEAD = "mm_itm_head"
HEADS = {
    MATCHING_HEAD: MATCHING_HEAD,
    "mm_qa_head": "answer_head",
    "mm_refs_head": "grounding_head",
    "text_mlm_head": "text_mlm_head",
    "imgfeat_head": "imgfeat_head",
}
"""Their name -> ours. The heads of tasks have neutral names, under which the tasks find them."""

WORD_TABLE = "text_embeddings.word_embeddings.weight"
TIED_TABLE = "text_mlm_head.decode.weight"


def translate(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``content['backbone']['layers.0.mhatt.dense_v.weight']`` becomes ``backbone.layers.0.mhatt.dense_v.weight``.

    That is all: our names are the authors' full names, but for heads of tasks (``mm_qa_head`` becomes ``answer_head``).
    The trunk and the known heads come over; the optimiser's state,
    counters and anything unknown stay behind (the caller reports what did). A head's word table stays behind too where
    it is the tied copy of the text embeddings'.

    Raises:
        CheckpointError: this is no file of that layout.
    """
    found = [name for name in (*TRUNK, *HEADS) if name in content]
    if not any(name in TRUNK for name in found):
        keys = ", ".join(map(str, content)) or "none"
        raise CheckpointError(f"not a ROSITA checkpoint: expected the keys {', '.join(TRUNK)}; found {keys}")
    tensors = {}
    for module in found:
        if not _is_state_dict(content[module]):
            raise CheckpointError(f"not a ROSITA checkpoint: '{module}' holds no tensors by name")
        ours = HEADS.get(module, module)
        tensors.update({f"{ours}.{name}": tensor for name, tensor in content[module].items()})
    if WORD_TABLE in tensors and TIED_TABLE in tensors and equal(tensors[WORD_TABLE], tensors[TIED_TABLE]):
        del tensors[TIED_TABLE]
    return tensors


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values())
