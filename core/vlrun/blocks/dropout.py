"""Dropout whose mask is cheap to draw on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16  # what 16 bits can tell apart
_BYTES_A_DRAW = 8


def dropout(values: Tensor, share: float, training: bool = True) -> Tensor:
    """Sets a ``share`` of the values to 0 at random and scales the others, as ``F.dropout``; any shape.

    On the CPU torch draws two numbers of 32 bits for each value, in one thread: a twentieth of a step in bfloat16 on
    one core, more on several. Here four values share what it draws for one, so a share is rounded to a 65,536th. What
    is drawn depends on torch's generator alone. Other devices, and compiled code, use their own kernel.
    """
    if not training or not share:
        return values
    threshold = round(share * _STEPS)
    if values.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < threshold < _STEPS:
        return F.dropout(values, share)
    number = values.numel()
    draws = torch.empty(-(-2 * number // _BYTES_A_DRAW), dtype=torch.int64).random_(-(2**63), None)
    least = threshold - _STEPS // 2  # of what is kept; 0 or 1 by arithmetic, for torch is slow with booleans on the CPU
    keep = draws.view(torch.int16)[:number].view(values.shape).clamp_(least - 1, least).sub_(least - 1)
    dtype = values.dtype if values.is_floating_point() else torch.get_default_dtype()
    return values * keep.to(dtype).mul_(_STEPS / (_STEPS - threshold))


class Dropout(nn.Dropout):
    """``nn.Dropout`` by ``dropout``: of any shape, to the same shape."""

    def forward(self, values: Tensor) -> Tensor:
        """Drops of values (N, ...) in training; returns them as they are in evaluation."""
        return dropout(values, self.p, self.training)
