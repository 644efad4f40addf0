"""In which precision a run computes: chosen for its device when it starts, and the same ever after."""

from __future__ import annotations

import torch

from vlrun.config.experiment import Experiment
from vlrun.errors import ConfigError

HALF_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_BF16_CAPABILITY = _TF32_CAPABILITY = (8, 0)  # Ampere; older GPUs compute bf16 by way of float32


def prepare_precision(experiment: Experiment, device: torch.device) -> Experiment:
    """The experiment with a settled precision, which the device was found to offer; sets that of products, too.

    Raises:
        ConfigError: the device does not offer it.
    """
    experiment = settle_precision(experiment, device)
    check_precision(experiment.train.precision, device)
    set_product_precision(experiment, device)
    return experiment


def settle_precision(experiment: Experiment, device: torch.device) -> Experiment:
    """The experiment with ``train.precision`` as it is on ``device``, where it says ``auto``."""
    if experiment.train.precision != "auto":
        return experiment
    return with_precision(experiment, "bf16" if _has(device, _BF16_CAPABILITY) else "fp32")


def with_precision(experiment: Experiment, precision: str) -> Experiment:
    """The experiment with another ``train.precision``."""
    train = experiment.train.model_copy(update={"precision": precision})
    return experiment.model_copy(update={"train": train})


def check_precision(precision: str, device: torch.device) -> None:
    """Tries out the half precision that an experiment asks for: what a device offers depends on the version of torch.

    Raises:
        ConfigError: the device does not offer it.
    """
    dtype = HALF_PRECISIONS.get(precision)
    if dtype is None:
        return
    try:
        with torch.autocast(device.type, dtype):
            one = torch.ones(1, 1, device=device) @ torch.ones(1, 1, device=device)
        if one.dtype is not dtype:  # torch only warns, and goes on in full precision
            raise TypeError(f"it computes in {one.dtype}")
        if precision == "fp16":
            weight = torch.nn.Parameter(torch.ones(1, device=device))
            optimizer = torch.optim.SGD([weight])
            scaler = torch.amp.GradScaler(device.type)
            scaler.scale((one * weight).sum()).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ConfigError(
            f"train.precision {precision}: torch {torch.__version__} does not offer it on {device.type} "
            f"({str(error).partition('. ')[0]}); use fp32"
        ) from error


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
