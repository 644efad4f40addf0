"""Optimisers and learning-rate schedules, against written-out formulas and the authors' traces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from optimising import make_optimizer, make_options, make_schedule
from pydantic import ValidationError
from torch import Tensor, nn

from vlrun import OptimizerConfig, ScheduleConfig
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.errors import ConfigError

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def traces(golden: Path) -> dict[str, Any]:
    return dict(np.load(golden / "rosita" / "schedules.npz"))


def steps_per_epoch(name: str) -> int:
    return int(name.rsplit("steps", 1)[1])


def shipped_schedule(recipe: str, steps: int) -> tuple[int, Callable[[int], float]]:
    """Epochs and rates of our experiment that has the recipe of this name."""
    file = EXPERIMENTS / f"rosita_{recipe.replace('plus', '+')}.yaml"
    train = yaml.safe_load(file.read_text())["train"]
    config = make_options("schedule", **train["schedule"])
    return train["epochs"], make_schedule(config, train["learning_rate"], steps, train["epochs"])


def pretraining_schedule(traces: dict[str, Any], steps: int) -> Callable[[int], float]:
    config = make_options(
        "schedule",
        name="warmup-linear",
        warmup_epochs=float(traces["bert_adam/warmup_epochs"]),
        schedule_epochs=float(traces["bert_adam/optim_epochs"]),
    )
    return make_schedule(config, float(traces["bert_adam/lr_base"]), steps, int(traces["bert_adam/epochs_run"]))


def parameter(values: list[float]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


@pytest.mark.golden
def test_the_experiments_of_rosita_have_the_rates_of_the_authors(traces: dict[str, Any]) -> None:
    names = [name for name in traces if name.startswith("warmup_adam/") and "resumed" not in name]
    assert names
    for name in names:
        steps = steps_per_epoch(name)
        epochs, rate = shipped_schedule(name.split("/")[1], steps)
        assert len(traces[name]) == epochs * steps, name
        assert [rate(step) for step in range(epochs * steps)] == pytest.approx(list(traces[name]), rel=1e-12), name


@pytest.mark.golden
def test_a_resumed_run_keeps_the_drops_that_the_authors_code_forgets(traces: dict[str, Any]) -> None:
    resumed = [name for name in traces if "_resumed_after_epoch" in name]
    assert resumed
    for name in resumed:
        recipe, _, rest = name.removeprefix("warmup_adam/").partition("_resumed_after_epoch")
        steps, first_epoch = steps_per_epoch(name), int(rest.split("/")[0])
        unbroken = traces[name.replace(f"_resumed_after_epoch{first_epoch}", "")]
        epochs, rate = shipped_schedule(recipe, steps)

        ours = [rate(step) for step in range(first_epoch * steps, epochs * steps)]

        assert ours == pytest.approx(list(unbroken[first_epoch * steps :]), rel=1e-12)
        assert ours[0] < traces[name][0]


@pytest.mark.golden
def test_linear_schedule_gives_the_rates_of_the_authors_pretraining(traces: dict[str, Any]) -> None:
    names = [name for name in traces if name.startswith("bert_adam/reported_lr_before_step/")]

    rates = {name: pretraining_schedule(traces, steps_per_epoch(name)) for name in names}
    ours = {name: [rates[name](step) for step in range(len(traces[name]))] for name in names}

    assert names
    assert ours == {name: pytest.approx(list(traces[name]), rel=1e-12, abs=1e-16) for name in names}


@pytest.mark.golden
def test_bert_adam_moves_a_parameter_as_the_authors_does(traces: dict[str, Any]) -> None:
    names = [name for name in traces if name.startswith("bert_adam/parameter_decrease/")]
    assert names
    for name in names:
        rate = pretraining_schedule(traces, steps_per_epoch(name))
        moved = parameter([0.0])
        optimizer = make_optimizer(make_options("optimizer", name="bert-adam", weight_decay=0.0), [("moved", moved)])
        decreases = []

        for step in range(len(traces[name])):
            before = moved.item()
            moved.grad = torch.ones_like(moved)
            set_learning_rate(optimizer, rate(step))
            optimizer.step()
            decreases.append(before - moved.item())

        assert decreases == pytest.approx(list(traces[name]), rel=1e-9, abs=1e-15), name


def test_bert_adam_is_adam_without_bias_correction_and_with_decoupled_decay() -> None:
    config = make_options("optimizer", name="bert-adam")
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=generator, dtype=torch.float64)
    gradients = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    trained = nn.Parameter(start.clone())
    optimizer = make_optimizer(config, [("trained", trained)])

    for step, gradient in enumerate(gradients):
        trained.grad = gradient.clone()
        set_learning_rate(optimizer, 0.01 * step)
        optimizer.step()

    expected = written_out_bert_adam(config, start, gradients)
    torch.testing.assert_close(trained.detach(), expected, rtol=1e-13, atol=1e-13)


def written_out_bert_adam(config: OptimizerConfig, start: Tensor, gradients: Tensor) -> Tensor:
    value, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, gradient in enumerate(gradients):
        first = config.betas[0] * first + (1 - config.betas[0]) * gradient
        second = config.betas[1] * second + (1 - config.betas[1]) * gradient**2
        value = value - 0.01 * step * (first / (second.sqrt() + config.eps) + config.weight_decay * value)
    return value


@pytest.mark.parametrize("name", ["adam", "adamw", "bert-adam"])
def test_parameters_without_gradient_stay_as_they_are(name: str) -> None:
    used, unused, frozen = parameter([1.0]), parameter([1.0]), parameter([1.0]).requires_grad_(False)
    named = [("used", used), ("unused", unused), ("frozen", frozen)]
    optimizer = make_optimizer(make_options("optimizer", name=name, weight_decay=0.1), named)
    used.grad = torch.ones_like(used)
    set_learning_rate(optimizer, 0.1)

    optimizer.step()

    assert used.item() < 1.0
    assert unused.item() == frozen.item() == 1.0
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


@pytest.mark.parametrize("name", ["adam", "adamw", "bert-adam"])
def test_a_reloaded_optimiser_continues_bit_for_bit(name: str) -> None:
    config = make_options("optimizer", name=name)
    unbroken, resumed = parameter([1.0, -2.0]), parameter([1.0, -2.0])
    first, second = make_optimizer(config, [("p", unbroken)]), make_optimizer(config, [("p", resumed)])
    for step in range(6):
        if step == 3:
            again = make_optimizer(config, [("p", resumed)])
            again.load_state_dict(second.state_dict())
            second = again
        for optimizer, moved in ((first, unbroken), (second, resumed)):
            set_learning_rate(optimizer, 0.01)
            moved.grad = moved.detach().sin() * (step + 1)
            optimizer.step()

    assert unbroken.tolist() == resumed.tolist()


def test_an_optimiser_stands_still_until_its_rate_is_set() -> None:
    still = parameter([1.0])
    optimizer = make_optimizer(make_options("optimizer", name="adamw"), [("still", still)])
    still.grad = torch.ones_like(still)

    optimizer.step()

    assert still.item() == 1.0


def test_clipping_returns_the_norm_before_and_scales_all_gradients_alike() -> None:
    first, second, unused = parameter([3.0]), parameter([4.0]), parameter([1.0])
    first.grad, second.grad = torch.tensor([3.0]).double(), torch.tensor([4.0]).double()

    norm = clip_gradients([first, second, unused], 1.0)

    assert norm.item() == 5.0
    assert [first.grad.item(), second.grad.item()] == pytest.approx([0.6, 0.8], abs=1e-6)


def test_without_a_limit_gradients_stay_and_the_norm_is_still_known() -> None:
    first, second = parameter([3.0]), parameter([4.0])
    first.grad, second.grad = torch.tensor([3.0]).double(), torch.tensor([4.0]).double()

    norm = clip_gradients(iter([first, second]), None)

    assert (norm.item(), first.grad.item()) == (5.0, 3.0)


def test_the_norm_of_no_gradient_is_zero() -> None:
    assert clip_gradients([parameter([1.0])], 1.0).item() == 0.0


def test_linear_schedule_starts_and_ends_at_zero() -> None:
    rate = make_schedule(
        make_options("schedule", name="warmup-linear", warmup_epochs=1), 1.0, steps_per_epoch=2, epochs=4
    )

    assert [rate(step) for step in range(9)] == pytest.approx([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_linear_schedule_can_start_at_the_top() -> None:
    rate = make_schedule(
        make_options("schedule", name="warmup-linear", warmup_epochs=0), 1.0, steps_per_epoch=2, epochs=1
    )

    assert [rate(0), rate(1)] == [1.0, 0.5]


def test_linear_warmup_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup_epochs 2\.0 is not less than the 2 epochs to train"):
        make_schedule(make_options("schedule", name="warmup-linear", warmup_epochs=2), 1.0, steps_per_epoch=5, epochs=2)


def test_an_evaluation_alone_needs_no_valid_schedule() -> None:
    make_schedule(make_options("schedule", name="warmup-linear", warmup_epochs=2), 1.0, steps_per_epoch=5, epochs=0)


def test_constant_schedule_is_constant() -> None:
    rate = make_schedule(make_options("schedule", name="constant"), 0.25, steps_per_epoch=5, epochs=2)

    assert {rate(step) for step in range(10)} == {0.25}


@pytest.mark.parametrize(
    ("name", "expected"), [("adam", (1e-8, 0.0)), ("adamw", (1e-8, 0.01)), ("bert-adam", (1e-6, 0.01))]
)
def test_each_optimiser_has_its_own_defaults(name: str, expected: tuple[float, float]) -> None:
    config = make_options("optimizer", name=name)

    assert (config.eps, config.weight_decay) == expected


@pytest.mark.parametrize(
    "config",
    [make_options("optimizer", name="bert-adam"), make_options("schedule", name="warmup-staircase")],
    ids=["optimizer", "schedule"],
)
def test_resolved_options_are_valid_again(config: OptimizerConfig | ScheduleConfig) -> None:
    assert type(config).model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "constant", "warmup_epochs": 1}, "warmup_epochs\n  Extra inputs"),
        ({"name": "warmup-linear", "decay_epochs": [1]}, "decay_epochs\n  Extra inputs"),
        ({"name": "warmup-linear", "warmup_epochs": 4, "schedule_epochs": 3}, "is not less than schedule_epochs"),
        ({"name": "warmup-staircase", "decay_epoch": [1]}, "decay_epoch"),
        ({"name": "cosine", "end_factor": 2}, "end_factor"),
    ],
)
def test_wrong_schedule_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_options("schedule", **options)


def test_wrong_optimiser_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="betas"):
        make_options("optimizer", name="adam", betas=[0.9, 1.0])
