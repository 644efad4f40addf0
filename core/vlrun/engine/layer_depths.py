"""How far each parameter of a backbone is from its inputs, counted in layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlrun.interfaces.backbone import Backbone


def layer_depths(backbone: Backbone) -> dict[str, int]:
    """Name -> depth of each parameter within the backbone; empty where it does not say what its layers are.

    What comes before the layers, such as embeddings, has depth 0, the first layer 1. Stacks side by side end together.
    What is registered after the last layer, such as the pooler, is left out: it is as far from the inputs as a head.
    """
    stages = backbone.layer_stacks or [[stack] for stack in backbone.depth_options]
    names = [name for name, _ in backbone.named_parameters()]
    found: dict[str, int] = {}
    below = 0
    for stage in stages:
        numbers = {stack: _numbers(stack, names) for stack in stage}
        highest = max((max(own.values(), default=-1) + 1 for own in numbers.values()), default=0)
        for own in numbers.values():
            first = below + highest - max(own.values(), default=-1)
            found |= {name: first + number for name, number in own.items()}
        below += highest
    if not found:
        return {}
    last = max(place for place, name in enumerate(names) if name in found)
    return {name: found.get(name, 0) for name in names[: last + 1]}


def _numbers(stack: str, names: Sequence[str]) -> dict[str, int]:
    """Name -> number of the layer of a stack, from 0."""
    pattern = re.compile(rf"{re.escape(stack)}\.(\d+)\.")
    return {name: int(match[1]) for name in names if (match := pattern.match(name))}
