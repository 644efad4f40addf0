"""Addressed randomness: every random choice derives from what it is for, never from what was drawn before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive_seed(*address: int | str) -> int:
    """A 63-bit seed for an address such as ``(seed, "order", epoch)``; the same on every machine."""
    text = "\x1f".join(str(part) for part in address)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def example_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one example in one epoch, whichever worker or rank handles it."""
    import numpy as np

    return np.random.Generator(np.random.Philox(derive_seed(seed, "example", epoch, index)))
