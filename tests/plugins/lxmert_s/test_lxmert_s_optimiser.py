"""The core's ``bert-adam`` and ``warmup-linear`` move parameters as the optimiser of LXMERT does (bertadam.npz).

What the core does not offer stays out: constant rates after a warm-up, and a negative warm-up together with a length.
No script of the authors uses them; what the optimiser does at those rates is still compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimising import make_optimizer, make_options, make_schedule
from torch import nn

from vlrun.engine.optimisation import set_learning_rate

pytestmark = pytest.mark.golden

UNDECAYED = "p2"  # the parameter that has no weight decay


@pytest.fixture
def traces(golden: Path) -> dict[str, Any]:
    return dict(np.load(golden / "lxmert_s" / "bertadam.npz"))


def runs(traces: dict[str, Any], is_wanted: Callable[[str, float, int], bool]) -> list[int]:
    """The numbers of the runs whose schedule, warm-up (a share; -1: none) and length (-1: no end) are wanted."""
    settings = zip(traces["run_schedule"], traces["run_warmup"], traces["run_t_total"], strict=True)
    found = [n for n, (name, warmup, total) in enumerate(settings) if is_wanted(str(name), warmup, total)]
    assert found
    return found


def parameter_names(traces: dict[str, Any], run: int) -> list[str]:
    prefix, end = f"run{run}/", "_init"
    return [name[len(prefix) : -len(end)] for name in traces if name.startswith(prefix) and name.endswith(end)]


def test_parameters_equal_the_original_after_every_step(traces: dict[str, Any]) -> None:
    for run in runs(traces, lambda *settings: True):
        parameters = {
            name: nn.Parameter(torch.tensor(traces[f"run{run}/{name}_init"])) for name in parameter_names(traces, run)
        }
        decayed = [(name, parameter) for name, parameter in parameters.items() if name != UNDECAYED]
        optimizers = [
            make_optimizer(make_options("optimizer", name="bert-adam"), decayed),
            make_optimizer(
                make_options("optimizer", name="bert-adam", weight_decay=0.0), [(UNDECAYED, parameters[UNDECAYED])]
            ),
        ]
        after: dict[str, list[Any]] = {name: [] for name in parameters}

        for step, rate in enumerate(traces[f"run{run}/lr_used"]):
            for name, parameter in parameters.items():
                parameter.grad = torch.tensor(traces[f"run{run}/{name}_grads"][step])
            for optimizer in optimizers:
                set_learning_rate(optimizer, float(rate))
                optimizer.step()
            for name, parameter in parameters.items():
                after[name].append(parameter.detach().numpy().copy())

        assert decayed
        for name, ours in after.items():
            theirs = traces[f"run{run}/{name}_after_each_step"]
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=f"run {run}, {name}")


def test_linear_schedules_equal_the_original_to_the_end_and_beyond(traces: dict[str, Any]) -> None:
    linear = runs(traces, lambda name, warmup, total: name == "warmup_linear" and warmup >= 0 and total > 0)
    for run in linear:
        total = int(traces["run_t_total"][run])
        config = make_options("schedule", name="warmup-linear", warmup_epochs=float(traces["run_warmup"][run]) * total)

        assert_rates(traces, run, make_schedule(config, traces[f"run{run}/lr_peak"].item(), 1, total))


def test_no_schedule_at_all_is_a_constant_rate(traces: dict[str, Any]) -> None:
    for run in runs(traces, lambda name, warmup, total: total < 0):
        steps = len(traces[f"run{run}/lr_used"])

        assert_rates(
            traces,
            run,
            make_schedule(make_options("schedule", name="constant"), traces[f"run{run}/lr_peak"].item(), 1, steps),
        )


def assert_rates(traces: dict[str, Any], run: int, rate: Callable[[int], float]) -> None:
    theirs = traces[f"run{run}/lr_used"]
    ours = [rate(step) for step in range(len(theirs))]
    assert ours == pytest.approx(list(theirs), rel=1e-9, abs=1e-15), f"run {run}"
