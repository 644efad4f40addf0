"""Parts of a transformer that scores many pairs with weights that stay as they are: fewer, larger products.

Weights are cast to half precision once and not at each call, layers that read the same input are one product, and on a
CPU they are kept in the order in which oneDNN reads them. Sums and layer norms stay in the precision of the weights.

Shapes: P pairs, S positions, H hidden size, A attention heads, D = H / A.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun.interfaces.tensors import full_precision


class States(NamedTuple):
    """Hidden states, as they are added up and as products read them; in full precision both are one tensor."""

    exact: Tensor
    rounded: Tensor


class FixedLinear:
    """Linear layers side by side on one input: (..., I) -> (..., sum of their outputs)."""

    def __init__(self, *layers: nn.Linear, dtype: torch.dtype, gelu: bool = False) -> None:
        """Copies the weights as they are now.

        Args:
            dtype: of the products; the input has it too.
            gelu: whether the exact GELU follows.
        """
        weight, bias = (
            torch.cat([getattr(layer, name).detach() for layer in layers]).to(dtype) for name in ("weight", "bias")
        )
        self.bias, self.gelu = bias, gelu
        self.packed = _is_packable(weight)
        self.weight: Any = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight

    def __call__(self, states: Tensor) -> Tensor:
        """The product, in the type of the weights."""
        if self.packed:
            after: tuple[str, list[Any], str] = ("gelu", [], "none") if self.gelu else ("none", [], "")
            result: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, *after)
            return result
        result = F.linear(states, self.weight, self.bias)
        return F.gelu(result) if self.gelu else result


def _is_packable(weight: Tensor) -> bool:
    """Whether oneDNN multiplies such a matrix, and this PyTorch has the operators that its own compiler uses."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    operators = torch.ops.mkldnn
    if not all(hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class ResidualNorm:
    """What every sub-layer ends with: the sum of what went in and what comes out, under a layer norm."""

    def __init__(self, norm: nn.LayerNorm, *, dtype: torch.dtype) -> None:
        """Keeps the norm; ``dtype`` is that of the products after it."""
        self.norm, self.dtype = norm, dtype

    def __call__(self, hidden: Tensor, change: Tensor) -> States:
        """Adds ``change``, perhaps in half precision, to exact states."""
        exact = self.norm(hidden + change)
        return States(exact, exact.to(self.dtype))


class FeedForward:
    """Two linear layers with the exact GELU between them, sum and norm."""

    def __init__(self, wide: nn.Linear, narrow: nn.Linear, norm: nn.LayerNorm, *, dtype: torch.dtype) -> None:
        """Copies the weights as they are now; ``dtype`` is that of the products."""
        self.wide, self.narrow = FixedLinear(wide, dtype=dtype, gelu=True), FixedLinear(narrow, dtype=dtype)
        self.norm = ResidualNorm(norm, dtype=dtype)

    def __call__(self, states: States) -> States:
        """Treats each position alone: (..., H) -> (..., H)."""
        return self.norm(states.exact, self.narrow(self.wide(states.rounded)))


def split_heads(projected: Tensor, count: int, num_heads: int) -> tuple[Tensor, ...]:
    """``count`` projections side by side, (P, S, count x H), as views (P, A, S, D)."""
    pairs, positions, _ = projected.shape
    return tuple(projected.view(pairs, positions, count, num_heads, -1).permute(2, 0, 3, 1, 4))


def attended(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    """Attention of (P, A, Q, D) over (P, A, K, D), heads joined: (P, Q, H).

    Args:
        key_mask: (P, 1, 1, K), True for what may be seen; None where nothing is padded.
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask).transpose(1, 2).flatten(-2)


class FirstAttention:
    """Self-attention of the first position alone: keys and values are multiplied once, and not for each position.

    The weights of a head's keys go to its one query, and those of its values to the weighted mean of what is seen.
    """

    def __init__(
        self, query: nn.Linear, key: nn.Linear, value: nn.Linear, *, num_heads: int, dtype: torch.dtype
    ) -> None:
        """Copies the weights as they are now; ``dtype`` is that of the products. The bias of keys has no effect."""
        self.query = FixedLinear(query, dtype=dtype)
        self.key, self.value = (
            layer.weight.detach().to(dtype).view(num_heads, -1, layer.in_features) for layer in (key, value)
        )  # (A, D, H)
        self.value_bias = value.bias.detach().to(dtype)

    def __call__(self, hidden: Tensor, key_mask: Tensor | None) -> Tensor:
        """Lets the first of all positions (P, S, H) look at all: (P, H), before the output layer.

        Args:
            key_mask: (P, 1, 1, S), True for what may be seen; None where nothing is padded.
        """
        num_heads, size, _ = self.key.shape
        query = self.query(hidden[:, 0]).view(-1, num_heads, size) * size**-0.5
        asked = torch.einsum("pad,adh->pah", query, self.key)
        scores = full_precision(asked @ hidden.transpose(1, 2))  # (P, A, S)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, 0], float("-inf"))
        seen = scores.softmax(dim=-1).to(hidden.dtype) @ hidden  # (P, A, H)
        return torch.einsum("pah,adh->pad", seen, self.value).flatten(-2) + self.value_bias
