"""Attention whose weights can be looked at: how much each token of a text attends to each region of an image.

Shapes: P pairs, T tokens, R regions, A attention heads, Q positions that ask, K positions that are seen, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun.blocks.dropout import dropout as drop
from vlrun.interfaces.tensors import Encoding

_record: ContextVar[AttentionRecord | None] = ContextVar("_record", default=None)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    shows_regions: bool = False,
) -> Tensor:
    """PyTorch's fused attention, (P, A, Q, D); within ``record_attention`` the record also keeps what went into it.

    Args:
        query: (P, A, Q, D).
        key, value: (P, A, K, D).
        key_mask: (P, 1, 1, K), True for what may be seen; None where nothing is padded.
        dropout: share of the weights that are dropped; 0 outside training.
        shows_regions: whether this is how the text looks at the image: the first queries are the tokens of the text,
            and the last keys are the regions. Other queries and keys may follow and precede.
    """
    if shows_regions and (record := _record.get()) is not None:
        record.keep(query, key, key_mask)
    if dropout and query.device.type == "cpu" and not torch.compiler.is_compiling():
        return _attend_with_dropout(query, key, value, key_mask, dropout)  # torch has no fused kernel for that
    return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)


def _attend_with_dropout(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, share: float) -> Tensor:
    """What torch computes in the CPU's case, with a cheaper mask and without care for queries that see nothing."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (P, A, Q, K)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask, torch.finfo(scores.dtype).min)
    return drop(scores.softmax(dim=-1), share) @ value


class AttentionRecord:
    """What the last layer that shows regions computed in a forward pass."""

    def __init__(self, encoding: Encoding) -> None:
        self._num_tokens, self._num_regions = encoding.token_ids.shape[1], encoding.region_mask.shape[1]
        self._kept: tuple[Tensor, Tensor, Tensor | None] | None = None

    def keep(self, query: Tensor, key: Tensor, key_mask: Tensor | None) -> None:
        """Remembers the input of a layer, in place of that of the layer before it."""
        self._kept = query.detach(), key.detach(), key_mask

    @torch.inference_mode()
    def shares(self) -> Tensor | None:
        """How the attention that each token pays to regions is shared among them, (P, T, R) float32, or None.

        The softmax of the layer, computed again without the fused kernel, is averaged over its heads; what falls on
        regions is divided by its sum, so that each row sums to 1 whatever else the layer sees. Padded regions have 0.
        Row 0 is that of the first token, [CLS], whose state is pooled. None: no layer said that it shows regions.
        """
        if self._kept is None:
            return None
        query, key, mask = self._kept
        with torch.autocast(query.device.type, enabled=False):
            scores = query[:, :, : self._num_tokens].float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            weights = scores.softmax(dim=-1)[..., -self._num_regions :].mean(dim=1)  # (P, T, R)
            shares: Tensor = weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
            return shares


def attention_is_recorded() -> bool:
    """Whether a ``record_attention`` of this thread wants what all positions look at."""
    return _record.get() is not None


@contextmanager
def record_attention(encoding: Encoding) -> Iterator[AttentionRecord]:
    """Records the forward pass of ``encoding`` that is made in the block, in this thread; outputs stay the same.

    ``with record_attention(encoding) as record: backbone(encoding)``, then ``record.shares()``.
    """
    record = AttentionRecord(encoding)
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)
