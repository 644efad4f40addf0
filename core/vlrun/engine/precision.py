"""In which precision a run computes: chosen for its device when it starts, and the same ever after."""

from __future__ import annotations

import torch

from vlrun.config.experiment import Experiment

_BF16_CAPABILITY = _TF32_CAPABILITY = (8, 0)  # Ampere; older GPUs compute bf16 by way of float32


def settle_precision(experiment: Experiment, device: torch.device) -> Experiment:
    """The experiment with ``train.precision`` as it is on ``device``, where it says ``auto``."""
    if experiment.train.precision != "auto":
        return experiment
    return with_precision(experiment, "bf16" if _has(device, _BF16_CAPABILITY) else "fp32")


def with_precision(experiment: Experiment, precision: str) -> Experiment:
    """The experiment with another ``train.precision``."""
    train = experiment.train.model_copy(update={"precision": precision})
    return experiment.model_copy(update={"train": train})


def set_product_precision(experiment: Experiment, device: torch.device) -> None:
    """Lets a GPU multiply float32 matrices in TF32, unless the experiment forbids it; for the whole process."""
    torch.set_float32_matmul_precision("high" if experiment.train.tf32 else "highest")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = experiment.train.tf32


def precision_name(experiment: Experiment, device: torch.device) -> str:
    """What the products of the network are computed in: ``fp32``, ``tf32``, ``bf16`` or ``fp16``."""
    precision = settle_precision(experiment, device).train.precision
    in_tf32 = precision == "fp32" and experiment.train.tf32 and _has(device, _TF32_CAPABILITY)
    return "tf32" if in_tf32 else precision


def _has(device: torch.device, capability: tuple[int, int]) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= capability
