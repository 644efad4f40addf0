"""The authors' files -> our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlrun import CheckpointError

NAMES = {  # theirs -> ours; of names that are parts of others, the longer one comes first
    "uniter.encoder.layer.": "layers.",
    "uniter.": "",
    "attention.output.dense.": "self_attn.out_proj.",
    "attention.output.LayerNorm.": "norm1.",
    "intermediate.dense.": "linear1.",
    "output.dense.": "linear2.",
    "output.LayerNorm.": "norm2.",
}


def translate(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network and its matching head; other heads stay behind.

    Raises:
        CheckpointError: this is no such file.
    """
    if "uniter.img_embeddings.img_linear.weight" not in content:
        raise CheckpointError("not a checkpoint of UNITER: it has no tensor uniter.img_embeddings.img_linear.weight")
    ours = {}
    for name, tensor in content.items():
        if name.startswith(("uniter.", "itm_output.")):
            for theirs, part in NAMES.items():
                name = name.replace(theirs, part)  # noqa: PLW2901
            ours[name] = tensor
    for name in [name for name in ours if "attention.self.query." in name]:
        joined = [ours.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        ours[name.replace("attention.self.query.", "self_attn.in_proj_")] = torch.cat(joined)
    return ours
