"""How much is scored at once, and how many parts stay on a device: what its whole memory allows.

Which pairs share a forward pass decides about the last bits of their scores, so nothing depends on what happens to be
free at the moment.
"""

from __future__ import annotations

import torch

PART_BYTES = 256 * 2**20
"""For parts of images on a CPU, and at least; twice that while they are put together."""

PAIRS_ON_CPU = 64  # more leave the caches: 5 % slower with four times as many
TOWER_PAIRS = 2**16
"""Of two towers, whose pairs are numbers of a product of matrices; so many are in a tile on every device."""

TOWER_TEXTS = 256
"""Texts in a tile of theirs, at the most."""

_MOST_PAIRS = 4096
_SHARE_OF_MEMORY = 16  # the parts and the activations of a forward pass take one such share each
_ACTIVATIONS = 6  # of a pair, in parts of its image: states, projections, and the wide layer of a transformer


def part_bytes(device: torch.device) -> int:
    """How much parts of images may take on a device."""
    return PART_BYTES if device.type != "cuda" else max(PART_BYTES, _share(device))


def pairs_at_once(device: torch.device, image_bytes: int) -> int:
    """Pairs in a forward pass where the options name no number; a power of two.

    Args:
        image_bytes: what the part of one image takes.
    """
    if device.type != "cuda":
        return PAIRS_ON_CPU
    fitting = _share(device) // (_ACTIVATIONS * image_bytes)
    return int(min(_MOST_PAIRS, max(PAIRS_ON_CPU, 1 << max(0, fitting.bit_length() - 1))))


def _share(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE_OF_MEMORY
