"""The matrix products of a step: how many operations they are, and how long they take alone on this device.

Only products count as operations, 2 M N K each, of forward and backward pass over the batch as it is padded.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vlrun.engine.model import TaskModel
from vlrun.engine.step_view import StepView
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch
from vlrun.runs.bench.clock import Seconds, timed

Product = tuple[int, int, int, int]
"""Number of products, rows, inner size, columns."""

_ATEN = torch.ops.aten
_FACTORS = {_ATEN.mm.default: (0, 1), _ATEN.bmm.default: (0, 1), _ATEN.addmm.default: (1, 2)}
_FACTORS |= {_ATEN.baddbmm.default: (1, 2)}
_SIDES = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # of square matrices that are large enough for the full rate
_DATA_SHEETS = {  # dense bf16 products of NVIDIA's data sheets, in operations per second
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "L4": 121e12,
}


@dataclass(frozen=True)
class StepProducts:
    """The products of one step.

    Attributes:
        operations: floating-point operations of all of them.
        shapes: how often each shape occurs.
    """

    operations: float
    shapes: Mapping[Product, int]


def products_of(model: TaskModel, name: str, task: Task[Any], batches: Sequence[Batch]) -> StepProducts | None:
    """The products of forward and backward pass of a task over some micro-batches; None if they cannot be counted.

    They are counted on torch's device without memory, which computes nothing, so network and loss must not look at
    values. Attention is taken apart into its two products there: the counter knows only some of the fused kernels.
    """
    network = _without_memory(model).train()
    recorder = _Recorder()
    try:
        with FlopCounterMode(display=False) as counter, recorder, sdpa_kernel(SDPBackend.MATH):
            for batch in batches:
                moved = batch.to("meta")
                losses = task.loss(task.training_outputs(moved, StepView(network, name)), moved.targets)
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    except (KeyError, NotImplementedError, RuntimeError):  # a task that asks companions finds none
        return None
    return StepProducts(float(counter.get_total_flops()), recorder.shapes)


def _without_memory(model: TaskModel) -> TaskModel:
    """A copy of the network on the device without memory; its weights are never copied."""
    known: dict[int, Any] = {}
    for parameter in model.parameters():
        known[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        known[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, known)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shape of every product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FACTORS:
            left, right = (args[place] for place in _FACTORS[func])
            count = left.shape[0] if left.dim() == 3 else 1
            self.shapes[count, left.shape[-2], left.shape[-1], right.shape[-1]] += 1
        return func(*args, **(kwargs or {}))


def seconds_alone(products: StepProducts, device: torch.device, dtype: torch.dtype) -> Seconds:
    """How long the products of a step take with nothing between them."""
    wall = processor = 0.0
    for shape, count in products.shapes.items():
        if min(shape):
            taken = timed(_product(shape, device, dtype), device, least=0.0)
            wall, processor = wall + count * taken.wall, processor + count * taken.processor
    return Seconds(wall, processor)


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large product."""
    side = _SIDES.get(device.type, 2048)
    work = _product((1, side, side, side), device, dtype)
    return 2.0 * side**3 / timed(work, device).wall


def _product(shape: Product, device: torch.device, dtype: torch.dtype) -> Any:
    count, rows, inner, columns = shape
    left = torch.randn(count, rows, inner, device=device, dtype=dtype)  # a GPU is faster on numbers that are all alike
    right = torch.randn(count, inner, columns, device=device, dtype=dtype)
    if count == 1:
        left, right = left[0], right[0]
    out: Tensor = left @ right  # warms up, and gives the result a place
    return lambda: torch.matmul(left, right, out=out)


def data_sheet_rate(device_name: str) -> float | None:
    """Operations per second in bf16 by the data sheet of a GPU; None where it is not known."""
    return next((rate for name, rate in _DATA_SHEETS.items() if name in device_name), None)
