"""Activation checkpointing: a layer keeps its input alone, and computes the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vlrun.errors import ConfigError


def recompute_layers(network: nn.Module) -> int:
    """Makes every layer of every stack (``nn.ModuleList``) of a network forget its activations in training.

    Gradients stay the same, dropout included: it is drawn again as it was. The names of parameters stay, too.

    Returns:
        The number of layers.

    Raises:
        ConfigError: the network has no stack of layers.
    """
    layers = list(_layers(network))
    if not layers:
        raise ConfigError(
            "train.activation_checkpointing: the backbone has no stack of layers (nn.ModuleList) whose activations "
            "could be computed again; set it to false, and raise train.micro_batches to save memory"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer, layer.forward)
    return len(layers)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of the outermost stacks."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _recomputed(layer: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if layer.training and torch.is_grad_enabled():
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    return forward(*inputs, **options)
