"""One shared backbone with a head for each task, and what identifies its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vlrun.blocks.attention import attention_is_recorded
from vlrun.errors import ConfigError
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.tensors import BackboneOutput, Encoding

_DRAWING = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}


def weights_fingerprint(modules: Sequence[nn.Module]) -> str:
    """A hash of all parameters and buffers, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def matching_head_names(backbone: Backbone) -> list[str]:
    """Names of the matching head's parameters within the backbone."""
    head = {id(parameter) for parameter in backbone.matching_head().parameters()}
    return [name for name, parameter in backbone.named_parameters() if id(parameter) in head]


class TaskModel(nn.Module):
    """Runs the backbone and one head; the other heads take no part in the step and get no gradient."""

    def __init__(self, backbone: Backbone, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        try:
            self.heads = nn.ModuleDict(dict(heads))
        except KeyError as error:  # such as 'items', which torch keeps for itself
            raise ConfigError(f"a task cannot have this label: {error.args[0]}. Give it another one") from error

    def forward(self, task: str, encoding: Encoding) -> Any:
        """The output of a task's head for P pairs, from states (P, L, H) and (P, R, H) and pooled (P, H).

        For a head that reads the pooled output alone, the backbone computes no state that this does not need.
        """
        head = self.heads[task]
        if getattr(head, "reads_pooled_alone", False) and not attention_is_recorded():
            return head(_pooled_alone(self.backbone, encoding))
        return head(self.backbone(encoding))


def _pooled_alone(backbone: Backbone, encoding: Encoding) -> BackboneOutput:
    """The pooled output (P, H); text and regions have no positions, so nobody can take them for states."""
    text, regions = backbone.text_part(encoding), backbone.region_part(encoding)
    if encoding.full_texts:
        text.pop("text_mask", None)
    if encoding.full_regions:
        regions.pop("region_mask", None)
    pooled = backbone.pooled_output(text, regions)
    none = pooled.new_empty(len(pooled), 0, pooled.shape[-1])
    vectors = (text["vector"], regions["vector"]) if backbone.two_towers else None
    return BackboneOutput(none, none, pooled, encoding.text_mask[:, :0], encoding.region_mask[:, :0], vectors)


class WithoutRandomNumbers(TorchFunctionMode):
    """Makes a network without drawing its first weights, which takes seconds and is lost when a checkpoint fills it."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in _DRAWING:
            return given["tensor"] if "tensor" in given else args[0]
        return function(*args, **given)
