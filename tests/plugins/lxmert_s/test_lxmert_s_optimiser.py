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
from torch import nn

from vlrun.config.train import OptimizerConfig, ScheduleConfig
from vlrun.engine.optimisation import build_optimizer, build_schedule, set_learning_rate

pytestmark = pytest.mark.golden

RUNS = range(9)
LINEAR_RUNS = (0, 1, 2, 3, 5)
CONSTANT_RUN = 6


@pytest.fixture
def traces(golden: Path) -> dict[str, Any]:
    return dict(np.load(golden / "lxmert_s" / "bertadam.npz"))


@pytest.mark.parametrize("run", RUNS)
def test_parameters_equal_the_original_after_every_step(traces: dict[str, Any], run: int) -> None:
    parameters = {f"p{n}": nn.Parameter(torch.tensor(traces[f"run{run}/p{n}_init"])) for n in range(3)}
    optimizers = [
        build_optimizer(OptimizerConfig(name="bert-adam"), [(n, parameters[n]) for n in ("p0", "p1")]),
        build_optimizer(OptimizerConfig(name="bert-adam", weight_decay=0.0), [("p2", parameters["p2"])]),
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

    for name in parameters:
        np.testing.assert_allclose(after[name], traces[f"run{run}/{name}_after_each_step"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", LINEAR_RUNS)
def test_linear_schedules_equal_the_original_to_the_end_and_beyond(traces: dict[str, Any], run: int) -> None:
    assert str(traces["run_schedule"][run]) == "warmup_linear"
    total = int(traces["run_t_total"][run])
    config = ScheduleConfig(name="warmup-linear", warmup_epochs=float(traces["run_warmup"][run]) * total)

    assert_rates(traces, run, build_schedule(config, traces[f"run{run}/lr_peak"].item(), 1, total))


def test_no_schedule_at_all_is_a_constant_rate(traces: dict[str, Any]) -> None:
    assert int(traces["run_t_total"][CONSTANT_RUN]) == -1

    assert_rates(traces, CONSTANT_RUN, build_schedule(ScheduleConfig(), traces["run6/lr_peak"].item(), 1, 20))


def assert_rates(traces: dict[str, Any], run: int, rate: Callable[[int], float]) -> None:
    theirs = traces[f"run{run}/lr_used"]
    assert [rate(step) for step in range(len(theirs))] == pytest.approx(list(theirs), rel=1e-9, abs=1e-15)
