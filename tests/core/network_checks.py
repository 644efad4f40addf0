"""What both papers' networks are held to: gradients that do not depend on how the layers are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vlrun import Backbone, Encoding
from vlrun.blocks.heads import PooledClassifier
from vlrun.engine.model import TaskModel
from vlrun.engine.recomputation import recompute_layers

Gradients = Mapping[str, Tensor | None]


def check_pooled_alone(network: Backbone, encoding: Encoding, *, full: bool) -> None:
    """A head that reads the pooled output alone gets the same gradients, and skipped masks change no state.

    Args:
        network: in double precision, without dropout.
        encoding: with padding.
        full: whether nothing is to be padded after all.
    """
    if full:
        ones = {mask: torch.ones_like(getattr(encoding, mask)) for mask in ("text_mask", "region_mask")}
        encoding = replace(encoding, **ones, full_texts=True, full_regions=True)
    model = TaskModel(network, {"task": PooledClassifier(network.hidden_size, 3)}).double()
    unflagged = replace(encoding, full_texts=False, full_regions=False)

    def gradients(whole: bool) -> Gradients:
        model.heads["task"].reads_pooled_alone = not whole
        model.zero_grad()
        model("task", unflagged if whole else encoding).square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    _check_same(gradients(whole=False), gradients(whole=True), tolerance=1e-12)
    for states in ("text", "regions", "pooled"):
        flagged, known = (getattr(network(seen), states) for seen in (encoding, unflagged))
        torch.testing.assert_close(flagged, known, rtol=0, atol=1e-12)


def check_recomputation(network: Backbone, encoding: Encoding) -> None:
    """Layers that are computed again in the backward pass drop the same, to the last bit, and keep their names."""
    names = list(network.state_dict())

    def gradients() -> Gradients:
        torch.manual_seed(4)
        network.zero_grad()
        output = network(encoding)
        (output.pooled.square().sum() + output.regions.square().sum()).backward()
        return {name: parameter.grad for name, parameter in network.named_parameters()}

    expected = gradients()
    assert recompute_layers(network) > 1
    _check_same(gradients(), expected, tolerance=0)
    assert list(network.state_dict()) == names
    assert torch.equal(network.eval()(encoding).pooled, network(encoding).pooled)


def _check_same(found: Gradients, expected: Gradients, *, tolerance: float) -> None:
    for gradient, (name, known) in zip(found.values(), expected.items(), strict=True):
        assert (gradient is None) == (known is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, known, rtol=0, atol=tolerance)
