"""Checkpoints of others, brought into one layout: that of the converted Caffe weights.

Two networks that compute the same are written in two ways. The Caffe one puts the background first and has two numbers
per anchor; Hugging Face's puts it last, subtracts the background's number, leaves its box out, and does not count the
last pixel of an anchor. Either way in serves both profiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlrun import CheckpointError, DataError, read_pickled_arrays
from vlrun_detector.anchors import to_inclusive
from vlrun_detector.network import check_state

OWNER = "bottom-up"
"""What imported files say they are for."""

CAFFE_FORMAT, HF_FORMAT = "bottom-up-caffe", "bottom-up-hf"

HEAD = "roi_heads.box_predictor"
LOGITS = "proposal_generator.rpn_head.objectness_logits"
ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
HF_NAMES = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""By which Hugging Face's code divides what its box layer predicts."""

_IGNORED = ("num_batches_tracked", "pixel_mean", "pixel_std")


def translate_caffe(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of bottom-up-attention.pytorch, as they are; raises CheckpointError for others."""
    state = _tensors_in(content)
    if _is_hf(state):
        raise CheckpointError(f"its box layer has no row for the background: --from {HF_FORMAT} reads such files")
    check_state(state)
    return state


def translate_hf(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of Hugging Face's frcnn-vg, in the Caffe layout; raises CheckpointError for others."""
    state = _tensors_in(content)
    if not _is_hf(state):
        raise CheckpointError(f"its box layer is not that of frcnn-vg; is it for --from {CAFFE_FORMAT}?")
    translated = {_caffe_name(name): tensor for name, tensor in state.items()}
    for layer in ("cls_score", "cls_embed", "attr_linear2"):
        _change(translated, f"{HEAD}.{layer}", lambda rows: rows.roll(1, dims=0))
    _change(translated, f"{HEAD}.bbox_pred", _with_background_box)
    _change(translated, LOGITS, lambda rows: torch.cat([torch.zeros_like(rows), rows]))
    if ANCHORS in translated:
        translated[ANCHORS] = to_inclusive(translated[ANCHORS])
    check_state(translated)
    return translated


def read_pickled(path: Path) -> dict[str, Any]:
    """Content of a .pkl of airsplay's py-bottom-up-attention, arrays as tensors; nothing in it is run.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than arrays and plain values.
    """
    try:
        content = read_pickled_arrays(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from error
    arrays = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(arrays, Mapping):
        raise CheckpointError(f"{path}: it has no 'model', which holds the arrays in such files")
    return {
        str(name): torch.from_numpy(array)
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fi"
    }


def _tensors_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), content)
    state = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    return {name: tensor for name, tensor in state.items() if not name.endswith(_IGNORED)}


def _is_hf(state: Mapping[str, Tensor]) -> bool:
    boxes, classes = state.get(f"{HEAD}.bbox_pred.weight"), state.get(f"{HEAD}.cls_score.weight")
    return boxes is not None and classes is not None and len(boxes) == 4 * (len(classes) - 1)


def _caffe_name(name: str) -> str:
    layer, _, kind = name.removeprefix(f"{HEAD}.").rpartition(".")
    return f"{HEAD}.{HF_NAMES[layer]}.{kind}" if layer in HF_NAMES else name


def _change(state: dict[str, Tensor], layer: str, change: Any) -> None:
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in state:
            state[name] = change(state[name])


def _with_background_box(rows: Tensor) -> Tensor:
    factors = rows.new_tensor(BOX_WEIGHTS).repeat(len(rows) // 4)
    return torch.cat([torch.zeros_like(rows[:4]), rows / factors.view(-1, *[1] * (rows.dim() - 1))])
