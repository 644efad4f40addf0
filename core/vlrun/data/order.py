"""The order in which an epoch's examples are trained on: a function of (seed, epoch), and of text lengths if wanted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlrun.features.pictures import ImageStore
from vlrun.interfaces.backbone import PairEncoder
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Pair
from vlrun.seeds import derive_seed

_TEXTS_AT_ONCE = 1024


@lru_cache(maxsize=8)
def epoch_order(size: int, seed: int, epoch: int, order_seed: int | None = None) -> NDArray[np.int64]:
    """The order of an epoch's examples, (size,). It is cached: do not change it.

    With ``order_seed`` n it is the permutation seeded with n + epoch, which is what torch's DistributedSampler, and
    with n = 0 ROSITA's sampler, use before they deal examples out to ranks.
    """
    generator = torch.Generator()
    generator.manual_seed(derive_seed(seed, "order", epoch) if order_seed is None else order_seed + epoch)
    order: NDArray[np.int64] = torch.randperm(size, generator=generator).numpy()
    return order


@dataclass(frozen=True, eq=False)
class LengthGroups:
    """Which examples may share a batch, so that texts of a batch are about as long and little of it is padding.

    Attributes:
        lengths: of the text of each example, (size,).
        pool: this many batches that follow each other are made anew of the same examples, by length.
    """

    lengths: NDArray[np.int32]
    pool: int

    @lru_cache(maxsize=8)  # noqa: B019 - there is one for each task of a run, which ends with the process
    def order(self, seed: int, epoch: int, order_seed: int | None, batch_size: int) -> NDArray[np.int64]:
        """``epoch_order`` with the examples of each pool sorted by length and cut into batches, in random order.

        Every example keeps its pool, and those behind the last full batch keep their place: what an epoch trains on,
        and what it leaves out, is the same. It is cached: do not change it.
        """
        order = epoch_order(len(self.lengths), seed, epoch, order_seed).copy()
        full, step = len(order) // batch_size * batch_size, self.pool * batch_size
        for number, first in enumerate(range(0, full, step)):
            of_pool = order[first : min(first + step, full)]
            by_length = of_pool[np.argsort(self.lengths[of_pool], kind="stable")].reshape(-1, batch_size)
            rng = np.random.Generator(np.random.Philox(derive_seed(seed, "length groups", epoch, number)))
            of_pool[:] = rng.permutation(by_length).reshape(-1)
        return order


def text_lengths(dataset: Dataset[Any], encode: PairEncoder, store: ImageStore) -> NDArray[np.int32]:
    """The number of tokens of each example's text, as its backbone counts them."""
    examples = iter(dataset)
    lengths: list[NDArray[np.int32]] = []
    while texts := [example.text for example in islice(examples, _TEXTS_AT_ONCE)]:
        image_id = dataset[0].image_ids[0]  # an encoder wants regions, too; any will do
        regions = store.outline([image_id] * len(texts))
        encoding = encode([Pair(text, image_id) for text in texts], regions)
        lengths.append(encoding.text_mask.sum(1, dtype=torch.int32).numpy())
    return np.concatenate(lengths)
