"""The built-in optimisers. Fused kernels are used where the devices of all parameters have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from vlrun.config.optimisation import AdamConfig, LambConfig, SgdConfig
from vlrun.errors import ConfigError

Groups = Sequence[dict[str, Any]]
"""Parameter groups as torch has them."""

_FUSED_DEVICES = {"cpu", "cuda"}


class BertAdam(AdamW):
    """Adam as BERT was trained: decoupled weight decay and *no bias correction*.

    ``p -= rate * (m / (sqrt(v) + eps) + weight_decay * p)``, on parameters that have a gradient.

    Bias correction divides by ``1 - beta ** step``, which is 1 to the last bit once ``step`` is large. So this is
    AdamW whose step counts start late, and it runs on the same fused kernel.
    """

    FIRST_STEP = 2**20
    """0.999 ** 2**20 is 0 next to 1, and float32, in which steps are counted, stays exact for 15 million more."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._first_state(parameter, group["fused"])
        return super().step(closure)

    def _first_state(self, parameter: Tensor, fused: bool | None) -> dict[str, Tensor]:
        device = parameter.device if fused else "cpu"  # the fused kernel wants the count beside the parameter
        return {
            "step": torch.full((), self.FIRST_STEP, dtype=torch.float32, device=device),  # unlike tensor(), no copy
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }


def adam(config: AdamConfig, groups: Groups) -> Optimizer:
    """Adam of torch."""
    return _of_adam(Adam, config, groups)


def adamw(config: AdamConfig, groups: Groups) -> Optimizer:
    """AdamW of torch."""
    return _of_adam(AdamW, config, groups)


def bert_adam(config: AdamConfig, groups: Groups) -> Optimizer:
    """``BertAdam``."""
    return _of_adam(BertAdam, config, groups)


def sgd(config: SgdConfig, groups: Groups) -> Optimizer:
    """SGD of torch."""
    return SGD(
        [*groups],
        lr=0.0,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=_can_fuse(groups),
    )


def lamb(config: LambConfig, groups: Groups) -> Optimizer:
    """LAMB of the package pytorch-optimizer; gradients are clipped by ``train.max_grad_norm`` alone.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise ConfigError(
            "train.optimizer: lamb is that of the package pytorch-optimizer: pip install 'vlrun[optimizers]'"
        ) from error
    # the trust ratio already undoes the small moments of the first steps; correcting the rate for them, as the package
    # does unless told otherwise, makes these steps ten times too large
    made: Optimizer = Lamb(
        [{**group, "adam_debias": True} for group in groups],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        grad_averaging=True,
        max_grad_norm=0.0,
    )
    return made


def _of_adam(kind: type[Adam], config: AdamConfig, groups: Groups) -> Optimizer:
    return kind(
        [*groups],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=_can_fuse(groups),
    )


def _can_fuse(groups: Groups) -> bool:
    return all(parameter.device.type in _FUSED_DEVICES for group in groups for parameter in group["params"])
