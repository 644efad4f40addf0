"""What the papers' networks have in common, as their programs compute it: one operation after the other, and a mask.

Additive masks of -10000, a softmax of its own, GELU by its formula (ROSITA's layer norm, too; LXMERT's program uses
torch's), and optimisers that go through the tensors one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NAME = "the paper's way, fp32"
ABOUT = "eager attention, texts padded to the maximum, an optimiser call per tensor, float32 features in memory"
EPS = 1e-12


class LayerNorm(nn.Module):
    """Layer norm by its formula."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        mean = hidden.mean(-1, keepdim=True)
        variance = (hidden - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((hidden - mean) / torch.sqrt(variance + EPS)) + self.bias


def gelu(hidden: Tensor) -> Tensor:
    """The exact GELU by its formula."""
    return hidden * 0.5 * (1.0 + torch.erf(hidden / math.sqrt(2.0)))


def additive_mask(mask: Tensor) -> Tensor:
    """(P, K), True for what is real -> (P, 1, 1, K), to be added to scores."""
    return (1.0 - mask[:, None, None].float()) * -10000.0


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, dropout: nn.Dropout) -> Tensor:
    """Attention of projected states (P, S, H) over (P, K, H), with all scores and weights in memory: (P, S, H)."""

    def in_heads(states: Tensor) -> Tensor:
        size = (*states.shape[:-1], num_heads, states.shape[-1] // num_heads)
        return states.view(size).permute(0, 2, 1, 3)

    scores = torch.matmul(in_heads(query), in_heads(key).transpose(-1, -2))
    scores = scores / math.sqrt(query.shape[-1] // num_heads) + mask
    weights = dropout(nn.functional.softmax(scores, dim=-1))
    merged = torch.matmul(weights, in_heads(value)).permute(0, 2, 1, 3).contiguous()
    return merged.view(*query.shape)


def adam(parameters: Iterable[nn.Parameter], config: Any) -> Optimizer:
    """Adam, tensor by tensor."""
    return torch.optim.Adam(
        parameters,
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        foreach=False,
        fused=False,
    )


class BertAdam(Optimizer):
    """Adam as BERT was trained, tensor by tensor."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: Any) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self._betas, self._eps, self._decay = config.betas, config.eps, config.weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Updates every parameter that has a gradient."""
        first, second = self._betas
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["moment"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                moment, square = state["moment"], state["square"]
                moment.mul_(first).add_(parameter.grad, alpha=1 - first)
                square.mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                update = moment / (square.sqrt() + self._eps)
                update += self._decay * parameter
                parameter.add_(update, alpha=-group["lr"])
