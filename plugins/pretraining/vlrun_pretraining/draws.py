"""The random numbers of one pair: a stream of its own for each purpose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlrun.seeds import derive_seed


class Draws:
    """Streams of random numbers by purpose, so that one rule does not shift the draws of another.

    Tests of rules put recorded numbers in its place.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Takes one number from ``rng``, the generator of a pair, and derives all streams from it."""
        self._key = int(rng.integers(1 << 62))
        self._streams: dict[str, np.random.Generator] = {}

    def uniform(self, purpose: str, count: int) -> NDArray[np.float64]:
        """The next ``count`` numbers in [0, 1) of a purpose."""
        return self._stream(purpose).random(count)

    def below(self, purpose: str, limit: int, count: int) -> NDArray[np.int64]:
        """The next ``count`` whole numbers in [0, ``limit``) of a purpose, all equally likely."""
        return self._stream(purpose).integers(limit, size=count)

    def _stream(self, purpose: str) -> np.random.Generator:
        stream = self._streams.get(purpose)
        if stream is None:
            stream = np.random.Generator(np.random.Philox(derive_seed(self._key, purpose)))
            self._streams[purpose] = stream
        return stream
