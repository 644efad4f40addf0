"""The check of callbacks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlrun.engine.callbacks import callback_state, load_callback_state
from vlrun.engine.model import TaskModel
from vlrun.engine.step_view import StepView
from vlrun.interfaces.callback import Callback
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport
from vlrun.testing.stubs import StubBackbone

_TASK = "checked"
_STEPS, _EVALUATED = 4, 2


def check_callback(make: Callable[[], Callback], *, may_read_values: bool = False) -> None:
    """Asserts what the core relies on in a callback; ``make`` returns a new one, as every run has its own.

    Every process does the same: two callbacks that see the same leave the same gradients and weights. One that goes on
    from the state of another after some steps does what that would have done. Nothing is read from the device, so that
    a GPU never waits (``may_read_values`` allows it, at that price).
    """
    torch.manual_seed(0)
    network = TaskModel(StubBackbone(), {_TASK: nn.Linear(16, 2)})
    first, second = make(), make()
    assert first is not second, "make() must return a new callback at each call, as every run has its own"
    assert isinstance(first, Callback), f"make() must return a Callback, not {first!r}"
    one, other = copy.deepcopy(network), copy.deepcopy(network)
    _train(first, one, 0, _EVALUATED)
    torch.randn(3)  # other processes may have drawn other numbers by then
    _train(second, other, 0, _EVALUATED)
    _assert_same(one, other, "two processes that see the same must do the same: draw from vlrun.seeds, by the step")

    state = callback_state([first])
    resumed = make()
    load_callback_state([resumed], {name: tensor.clone() for name, tensor in state.items()})
    _train(first, one, _EVALUATED, _STEPS)
    _train(resumed, other, _EVALUATED, _STEPS)
    _assert_same(one, other, "a run that goes on must do the same: what later steps need must be in state()")
    if not may_read_values:
        _check_nothing_is_read(make(), network)


def _train(callback: Callback, model: TaskModel, start: int, end: int) -> None:
    """A few steps of plain gradient descent, with gradients that depend on the step alone."""
    for position in range(start, end):
        _step(callback, model, position)
        if position + 1 == _EVALUATED:
            score = Score("accuracy", 50.0, count=10, primary=True)
            callback.after_evaluation(EvaluationReport(_TASK, "val", position + 1, 1, [score], 1.0, 10), model)


def _step(callback: Callback, model: TaskModel, position: int) -> None:
    generator = torch.Generator().manual_seed(position)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
    view = StepView(model, _TASK, position=position, epoch=position // _EVALUATED, learning_rate=0.1)
    callback.after_backward(view)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.1)
    callback.after_update(view)


def _assert_same(one: nn.Module, other: nn.Module, what: str) -> None:
    def values(model: nn.Module) -> list[Tensor]:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return [*model.state_dict().values(), *gradients]

    pairs = list(zip(values(one), values(other), strict=False))
    assert len(values(one)) == len(values(other)), what
    assert all(torch.equal(*pair) for pair in pairs), what


def _check_nothing_is_read(callback: Callback, network: TaskModel) -> None:
    """Takes a step on torch's device without memory, where values cannot be read."""
    try:
        _step(callback, copy.deepcopy(network).to("meta"), 0)
    except (NotImplementedError, RuntimeError) as error:
        raise AssertionError(
            "a callback must not read values of tensors (item, float, branches on them) nor mix devices: "
            f"{str(error).splitlines()[0]}"
        ) from error
