"""The weights of the Caffe original itself: a protobuf message, read with Google's protobuf and no Caffe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlrun import CheckpointError
from vlrun_detector.anchors import caffe_anchors
from vlrun_detector.network import check_state
from vlrun_detector.weights import ANCHORS, HEAD

_STAGES = {"2": "backbone.res2", "3": "backbone.res3", "4": "backbone.res4", "5": "roi_heads.res5"}
_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_LAYERS = {
    "rpn_conv/3x3": "proposal_generator.rpn_head.conv",
    "rpn_cls_score": "proposal_generator.rpn_head.objectness_logits",
    "rpn_bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
    "cls_score": f"{HEAD}.cls_score",
    "bbox_pred": f"{HEAD}.bbox_pred",
    "cls_embedding": f"{HEAD}.cls_embed",
    "fc_attr": f"{HEAD}.attr_linear1",
    "attr_score": f"{HEAD}.attr_linear2",
}
_BLOCK = re.compile(r"(?:res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2[abc])")


def read_caffemodel(path: Path) -> dict[str, list[Tensor]]:
    """The blobs of every layer that has some, by the layer's name.

    Raises:
        CheckpointError: the file is missing, or is no caffemodel.
    """
    from google.protobuf.message import DecodeError

    message = _net_parameter()()
    try:
        message.ParseFromString(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise CheckpointError(f"{path}: no caffemodel, or damaged: {error}") from error
    layers = [*message.layer, *message.layers]
    return {layer.name: [_tensor(blob) for blob in layer.blobs] for layer in layers if layer.blobs}


def translate_caffemodel(content: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """The layers of the detector under the names of the converted weights; anchors are those of the original."""
    state: dict[str, Tensor] = {ANCHORS: caffe_anchors()}
    for layer, blobs in content.items():
        state.update(_named(layer, blobs))
    check_state(state)
    return state


def _named(layer: str, blobs: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    if layer in _LAYERS:
        for kind, blob in zip(("weight", "bias"), blobs, strict=False):
            yield f"{_LAYERS[layer]}.{kind}", blob
        return
    kind = next((kind for kind in ("bn", "scale") if layer.startswith(kind)), "conv")
    owner = _convolution(layer)
    if owner is None:
        return  # a layer that training needed and this detector does not
    if kind == "bn":
        if len(blobs) != 3:
            raise CheckpointError(f"layer {layer} holds {len(blobs)} blobs, expected mean, variance and their factor")
        factor = blobs[2].flatten()[0]
        factor = factor.where(factor != 0, torch.ones(()))
        yield f"{owner}.norm.running_mean", blobs[0].flatten() / factor
        yield f"{owner}.norm.running_var", blobs[1].flatten() / factor
    elif kind == "scale":
        for part, blob in zip(("weight", "bias"), blobs, strict=False):
            yield f"{owner}.norm.{part}", blob.flatten()
    else:
        yield f"{owner}.weight", blobs[0]


def _convolution(layer: str) -> str | None:
    """Our name of the convolution that a layer belongs to: ``res4b22_branch2a`` is the 23rd block of ``res4``."""
    if layer in ("conv1", "bn_conv1", "scale_conv1"):
        return "backbone.stem.conv1"
    if match := _BLOCK.fullmatch(layer):
        stage, letter, number, branch = match.groups()
        block = int(number) if number else ord(letter) - ord("a")
        return f"{_STAGES[stage]}.{block}.{_BRANCHES[branch]}"
    return None


def _tensor(blob: Any) -> Tensor:
    values = np.array(blob.data if len(blob.data) else blob.double_data, np.float32)
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    if values.size != int(np.prod(shape)):
        raise CheckpointError(f"a blob of shape {shape} holds {values.size} numbers")
    if not blob.shape.dim:  # the old way: vectors and matrices are padded to four sizes in front
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    return torch.from_numpy(values).view(shape)


def _net_parameter() -> Any:
    """The message type ``NetParameter``, as far as weights need it; protobuf skips all other fields."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    schema: dict[str, list[tuple[str, int, int, bool, str]]] = {
        "BlobShape": [("dim", 1, field.TYPE_INT64, True, "")],
        "BlobProto": [
            *((name, number, field.TYPE_INT32, False, "") for number, name in enumerate(_OLD_SHAPE, 1)),
            ("data", 5, field.TYPE_FLOAT, True, ""),
            ("shape", 7, field.TYPE_MESSAGE, False, "BlobShape"),
            ("double_data", 8, field.TYPE_DOUBLE, True, ""),
        ],
        "LayerParameter": [
            ("name", 1, field.TYPE_STRING, False, ""),
            ("blobs", 7, field.TYPE_MESSAGE, True, "BlobProto"),
        ],
        "V1LayerParameter": [
            ("name", 4, field.TYPE_STRING, False, ""),
            ("blobs", 6, field.TYPE_MESSAGE, True, "BlobProto"),
        ],
        "NetParameter": [
            ("layers", 2, field.TYPE_MESSAGE, True, "V1LayerParameter"),
            ("layer", 100, field.TYPE_MESSAGE, True, "LayerParameter"),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(name="weights.proto", package="caffe", syntax="proto2")
    for name, fields in schema.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated, of in fields:
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = message.field.add(name=field_name, number=number, type=kind, label=label)
            if of:
                added.type_name = f".caffe.{of}"
            elif repeated:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


_OLD_SHAPE = ("num", "channels", "height", "width")
