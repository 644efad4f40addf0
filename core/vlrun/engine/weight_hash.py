"""The hash that a file of weights carries of its own tensors and facts, so that a changed byte is never trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlrun.errors import CheckpointError

CONTENT_KEY = "content_sha256"


def content_hash(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of tensors (names, types, shapes and bytes, in the order of names) and of all other facts."""
    others = {key: value for key, value in facts.items() if key != CONTENT_KEY}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_content(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Compares what was read from a file with the hash in its facts; files of earlier versions have none.

    Raises:
        CheckpointError: they differ.
    """
    if CONTENT_KEY in facts and content_hash(tensors, facts) != facts[CONTENT_KEY]:
        raise CheckpointError(
            f"{path}: damaged: its tensors or facts are not those that were written, by the hash in it; copy it again, "
            "or import or export it again"
        )
