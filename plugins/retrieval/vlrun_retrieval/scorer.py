"""Scoring text-image pairs with what depends on one side alone computed once for each text and each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlrun import (
    Backbone,
    CheckpointError,
    ConfigError,
    Encoding,
    Pair,
    PairEncoder,
    PairNetwork,
    RegionBatch,
    RunView,
    full_precision,
)
from vlrun_retrieval.head import PairMatcher
from vlrun_retrieval.sizes import TOWER_PAIRS, pairs_at_once

_ENCODED_AT_ONCE = 128
_MASKS = ("text_mask", "region_mask")
_SOME_TEXT = "a"
_WORTH_PREPARING = 64  # pairs, in whose time the weights of a network are copied several times

Part = Mapping[str, Tensor]
"""What a backbone computed of texts or of images alone: tensors with a row for each; see ``Backbone.text_part``."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class EncodedTexts:
    """Tokens of N texts, on the CPU.

    Attributes:
        encoding: all padded to the longest, in int32 to save memory; its regions are those of no image, in one row.
        lengths: (N,) how many tokens are real.
    """

    encoding: Encoding
    lengths: Rows

    def cut(self, rows: Rows) -> Encoding:
        """Some of the texts, as long as the longest of them, with placeholders for regions."""
        whole, length = self.encoding, int(self.lengths[rows].max())
        positions = whole.position_ids
        return Encoding(
            token_ids=whole.token_ids[rows, :length].long(),
            text_mask=whole.text_mask[rows, :length],
            region_features=_expanded(whole.region_features, len(rows)),
            boxes=_expanded(whole.boxes, len(rows)),
            region_mask=_expanded(whole.region_mask, len(rows)),
            position_ids=None if positions is None else positions[rows, :length].long(),
        )


class PairScorer:
    """Scores pairs with one backbone and its matching head."""

    def __init__(
        self,
        backbone: Backbone,
        matcher: PairMatcher,
        to_scores: Callable[[Tensor], Tensor],
        encode: PairEncoder,
        read_regions: Callable[[Sequence[str]], RegionBatch],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Keeps what scoring needs; the weights are read when pairs are scored.

        Args:
            to_scores: logits (P, 2), in full precision -> scores (P,).
            read_regions: image ids -> their regions, as the model may see them.
        """
        self.backbone, self.matcher, self.to_scores = backbone, matcher, to_scores
        self.encode, self.read_regions = encode, read_regions
        self.device, self.autocast = device, autocast
        self._prepared: PairNetwork | None = None

    @classmethod
    def of_run(cls, run: RunView, to_scores: Callable[[Tensor], Tensor]) -> PairScorer:
        """Scores with the model of a run as it is now; the head of its task is a ``PairMatcher``."""
        backbone, matcher = run.backbone, run.head
        assert isinstance(matcher, PairMatcher), f"the head of a matching task is {type(matcher).__name__}"
        return cls(backbone, matcher, to_scores, run.encode, run.read_regions, device=run.device, autocast=run.autocast)

    @contextmanager
    def at_work(self, num_pairs: int | None = None) -> Iterator[None]:
        """Evaluation mode and no gradients; afterwards the model is as it was, and until then its weights stay.

        Args:
            num_pairs: how many are scored, so that weights are not prepared for a few; None: many.
        """
        was_training = self.backbone.training
        self.backbone.eval()
        self.matcher.eval()
        try:
            with torch.inference_mode():
                if num_pairs is None or num_pairs >= _WORTH_PREPARING:
                    self._prepared = self.backbone.for_scoring(self._dtype())
                yield
        finally:
            self._prepared = None
            self.backbone.train(was_training)
            self.matcher.train(was_training)

    @property
    def network(self) -> PairNetwork:
        """What scores at present."""
        return self.backbone if self._prepared is None else self._prepared

    def _dtype(self) -> torch.dtype:
        """In what products are computed."""
        with self.autocast():
            if torch.is_autocast_enabled(self.device.type):
                return torch.get_autocast_dtype(self.device.type)
        return next(self.backbone.parameters()).dtype

    def encoded(self, texts: Sequence[str], any_image: str) -> EncodedTexts:
        """Tokens of ``texts``; ``any_image`` is one with features, from which their shape is known."""
        blank = _blank(self.read_regions([any_image]))
        one = self.encode([Pair(_SOME_TEXT, any_image)], blank)
        tokens, masks, positions = [], [], []
        for start in range(0, len(texts), _ENCODED_AT_ONCE):
            pairs = [Pair(text, any_image) for text in texts[start : start + _ENCODED_AT_ONCE]]
            encoding = self.encode(pairs, blank.take([0] * len(pairs)))
            tokens.append(encoding.token_ids.int())
            masks.append(encoding.text_mask)
            if encoding.position_ids is not None:
                positions.append(encoding.position_ids.int())
        mask = _stacked(masks)
        whole = replace(
            one,
            token_ids=_stacked(tokens),
            text_mask=mask,
            position_ids=_stacked(positions) if positions else None,
        )
        lengths = mask.shape[1] - mask.flip(1).to(torch.uint8).argmax(dim=1)  # up to the last real token
        return EncodedTexts(whole, lengths.numpy().astype(np.int64))

    def text_part(self, texts: EncodedTexts, rows: Rows) -> Part:
        """What depends on these texts alone, on the device. Texts of one length need no mask, which is fastest."""
        with self.autocast():
            part = self.network.text_part(texts.cut(rows).to(self.device))
        return _without_idle_masks(part)

    def region_part(self, image_ids: Sequence[str]) -> Part:
        """What depends on these images alone, on the device."""
        chunks = []
        for start in range(0, len(image_ids), _ENCODED_AT_ONCE):
            ids = image_ids[start : start + _ENCODED_AT_ONCE]
            encoding = self.encode([Pair(_SOME_TEXT, image_id) for image_id in ids], self.read_regions(ids))
            with self.autocast():
                chunks.append(self.network.region_part(encoding.to(self.device)))
        # a backbone may pad to the most regions of what it is given
        return _without_idle_masks({name: _stacked([chunk[name] for chunk in chunks]) for name in chunks[0]})

    def image_bytes(self, any_image: str) -> int:
        """What the part of one image takes on the device."""
        return bytes_of(self.region_part([any_image]))

    def pairs_at_once(self, any_image: str) -> int:
        """How many pairs are scored at once where the options name no number."""
        if self.backbone.two_towers:
            return TOWER_PAIRS
        return pairs_at_once(self.device, self.image_bytes(any_image))

    def scores(self, texts: Part, images: Part) -> Tensor:
        """Row i of ``texts`` with row i of ``images`` -> (P,) float32, perhaps still being computed.

        Raises:
            ConfigError: so many pairs do not fit into the accelerator's memory.
        """
        try:
            with self.autocast() if self._prepared is None else nullcontext():
                pooled = self.network.pooled_output(texts, images)
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"{_size(texts):,} pairs at once do not fit into the GPU's memory: lower pairs_per_batch of the task"
            ) from error
        # the head in full precision: half-precision logits would tie
        return self.to_scores(self.matcher.logits(full_precision(pooled))).float()

    def all_pairs(self, texts: Part, images: Part) -> Tensor:
        """Every text with every image: (N, ...) and (M, ...) -> (M, N)."""
        num_texts, num_images = _size(texts), _size(images)
        if self.backbone.two_towers:
            matches = self.backbone.similarity(texts, images).float()
            return self.to_scores(torch.stack([torch.zeros_like(matches), matches], -1).flatten(0, 1)).view_as(matches)
        text_rows = {name: _expanded(value[None], num_images).flatten(0, 1) for name, value in texts.items()}
        image_rows = {name: value.repeat_interleave(num_texts, dim=0) for name, value in images.items()}
        return self.scores(text_rows, image_rows).view(num_images, num_texts)


class OnTheWay:
    """Scores on their way from the device, which goes on to the next pairs meanwhile."""

    def __init__(self, scores: Tensor) -> None:
        self._host = scores.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if scores.device.type == "cuda" else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(scores.device))

    def values(self) -> NDArray[np.float32]:
        """Waits for them.

        Raises:
            CheckpointError: a score is not finite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        scores: NDArray[np.float32] = self._host.numpy()
        if not np.isfinite(scores).all():
            raise CheckpointError(
                "a matching score is not finite, so nothing can be ranked. Are the weights damaged, or does "
                "train.precision=fp16 overflow (bf16 does not)?"
            )
        return scores


def take(part: Part, rows: slice | Rows | Tensor) -> dict[str, Tensor]:
    """Some rows of a part; a slice copies nothing."""
    if isinstance(rows, slice):
        return {name: value[rows] for name, value in part.items()}
    index = torch.as_tensor(rows)
    return {name: value[index.to(value.device)] for name, value in part.items()}


def _size(part: Part) -> int:
    return len(next(iter(part.values())))


def _without_idle_masks(part: Part) -> Part:
    """The part without a mask that hides nothing."""
    return {name: value for name, value in part.items() if name not in _MASKS or not bool(value.all())}


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """(n, L, ...) each -> (sum of n, longest L, ...), padded with zeros, as all further axes are."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]

    def padded(part: Tensor) -> Tensor:
        after = [(0, size - own) for size, own in zip(reversed(sizes), reversed(part.shape[1:]), strict=True)]
        return torch.nn.functional.pad(part, [number for pair in after for number in pair])

    return torch.cat([part if list(part.shape[1:]) == sizes else padded(part) for part in parts])


def _expanded(rows: Tensor, count: int) -> Tensor:
    """(1, ...) -> (count, ...) without a copy."""
    return rows.expand(count, *rows.shape[1:])


def _blank(regions: RegionBatch) -> RegionBatch:
    """One region without content, in the size and type of the store; of a picture one pixel."""
    classes = ("class_ids", "attribute_ids", "class_scores", "attribute_scores")
    cut = {name: value[:, :1] for name in classes if (value := getattr(regions, name)) is not None}
    if regions.pixels is not None:
        cut |= {"pixels": np.zeros_like(regions.pixels[:, :1, :1]), "pixel_sizes": np.ones((1, 2), np.int64)}
    features, mask = np.zeros_like(regions.features[:1, :1]), np.ones_like(regions.mask[:1, :1])
    return replace(regions, features=features, boxes=regions.boxes[:1, :1], mask=mask, **cut)


def bytes_of(part: Part) -> int:
    """What a part takes on the device."""
    return sum(value.numel() * value.element_size() for value in part.values())
