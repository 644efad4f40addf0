"""What a task is given to hide parts of text-image pairs from the model. P pairs, R regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from vlrun.interfaces.examples import Example, Pair, RegionBatch, Target

if TYPE_CHECKING:
    import numpy as np

    from vlrun.interfaces.backbone import Vocabulary
    from vlrun.interfaces.tensors import Encoding


@dataclass(frozen=True)
class Unmasked(Generic[Target]):
    """P pairs of a batch as they are before a task hides anything.

    Attributes:
        examples: that of each pair; the pairs of an example lie next to each other.
        pairs: their texts and images.
        regions: one row per pair, uncut and with boxes in pixels; with the detector's classes where the task asks for
            them (``Task.reads_classes``) and the store has them.
        encoding: what the backbone would see. Its features are the caller's to change only in a copy.
        rngs: a generator for each pair, addressed by seed, epoch, position of the example and number of the pair. Each
            purpose should have a stream of its own, so that one rule does not shift the draws of another.
        vocabulary: the backbone's ``wordpiece``.
        read_regions: reads the regions of any images of the store, as ``regions`` has them.
    """

    examples: Sequence[Example[Target]]
    pairs: Sequence[Pair]
    regions: RegionBatch
    encoding: Encoding
    rngs: Sequence[np.random.Generator]
    vocabulary: Vocabulary | None
    read_regions: Callable[[Sequence[str]], RegionBatch]
