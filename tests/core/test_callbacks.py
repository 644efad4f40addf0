"""Callbacks: called around each step in the order of the experiment, the same on all processes and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import training_world as toys
from toy_runs import experiment, lines, losses, ranks_run, stop_after_step, weights

from vlrun import Callback
from vlrun.cli import main
from vlrun.engine.ranks import Ranks
from vlrun.engine.step_window import Arriving, StepRecord, StepWindow
from vlrun.errors import ConfigError, StoppedOnRequest
from vlrun.interfaces.reporter import Reporter, Reporters, StepReport
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.run import run_experiment
from vlrun.testing import check_callback, run_ranks

TWO = "callbacks=[{name: watch, letter: b, halves: true}, {name: watch}]"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    return create_plugins([*core, EntryPoint("toy", "toy_world", "vlrun"), EntryPoint("t", "training_world", "vlrun")])


@pytest.fixture(autouse=True)
def _told_anew() -> Iterator[None]:
    toys.TOLD.clear()
    yield
    toys.TOLD.clear()


def run(world: Path, plugins: Plugins, *overrides: str, **options: Any) -> Path:
    return run_experiment(experiment(world, plugins, *overrides), plugins=plugins, **options).folder


def test_callbacks_are_called_in_the_order_of_the_experiment(world: Path, plugins: Plugins) -> None:
    folder = run(world, plugins, TWO, "train.epochs=2", "train.schedule={name: cosine, warmup_epochs: 0.5}")
    order = [(what, letter, position) for what, letter, position, _ in toys.TOLD]
    one_step = [(what, letter) for what in ("backward", "update") for letter in "ba"]
    steps = [(*each, position) for position in range(6) for each in one_step]
    ends = [[("evaluation", letter, step) for letter in "ba"] for step in (3, 6)]
    assert order == [*steps[:12], *ends[0], *steps[12:], *ends[1]]
    rates = [value for what, letter, _, value in toys.TOLD if (what, letter) == ("update", "a")]
    assert rates == [row["learning_rate"] for row in lines(folder, "step")]
    scores = [value for what, letter, _, value in toys.TOLD if (what, letter) == ("evaluation", "a")]
    assert scores == [row["value"] for row in lines(folder, "result") if not row["final"]]


def test_what_a_callback_does_to_the_gradient_is_clipped_and_used(world: Path, plugins: Plugins) -> None:
    folder = run(world, plugins, TWO, "train.epochs=1", "train.max_grad_norm=null")
    halves = {letter: [each[3] for each in toys.TOLD if each[:2] == ("backward", letter)] for letter in "ab"}
    assert halves["a"] == pytest.approx([value / 2 for value in halves["b"]])
    plain = run(world, plugins, "train.epochs=1", "train.max_grad_norm=null")
    norms = [[row["gradient_norm"] for row in lines(each, "step")] for each in (folder, plain)]
    assert norms[0][0] == pytest.approx(norms[1][0] / 2)


def test_callbacks_that_only_look_change_no_bit(world: Path, plugins: Plugins) -> None:
    watched, plain = run(world, plugins, "callbacks=[{name: watch}]"), run(world, plugins)
    assert losses(watched) == losses(plain)
    assert all(torch.equal(weights(plain)[name], value) for name, value in weights(watched).items())
    assert "scalars" not in lines(plain, "step")[0]
    assert not (plain / "checkpoints" / "last" / "callbacks.safetensors").exists()


def test_what_a_callback_keeps_is_in_the_checkpoint(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(world, plugins, TWO)
    with monkeypatch.context() as patch:
        stop_after_step(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, TWO)
    with pytest.raises(ConfigError, match="callbacks"):
        run(world, plugins, continues=True)
    again = run(world, plugins, TWO, continues=True)
    assert [row["scalars"] for row in lines(again, "step")] == [row["scalars"] for row in lines(whole, "step")]
    assert lines(again, "step")[-1]["scalars"] == {"steps b": 8.0, "steps a": 8.0}
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(again).items())


def test_every_process_sees_the_gradient_of_all(world: Path, plugins: Plugins) -> None:
    options = ("callbacks=[{name: watch, halves: true}]", "backbone.dropout=0", "train.epochs=1")
    alone = run(world, plugins, *options)
    folder = ranks_run(world, plugins, 3, *options)[0][0]
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, weights(alone)[name], rtol=1e-5, atol=1e-6)
    assert [row["scalars"] for row in lines(folder, "step")] == [{"steps a": float(step)} for step in range(3)]


def test_callbacks_are_listed_and_an_unknown_one_is_told(
    world: Path, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    install("vlrun-watch", "from training_world import vlrun_callbacks\n")
    assert main(["list-plugins"]) == 0
    assert "callback: watch" in capsys.readouterr().out
    assert main(["list", "callbacks", "--options"]) == 0
    assert "letter" in capsys.readouterr().out
    file = world / "toy.yaml"
    file.write_text(file.read_text() + "callbacks: [{name: wacht}]\n")
    with pytest.raises(ConfigError, match=r"callbacks\.0\.name: no callback 'wacht' .*Did you mean 'watch'\?"):
        experiment(world, create_plugins())


# --- numbers beside the losses ---


class Kept(Reporter):
    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def step(self, report: StepReport) -> None:
        self.reports.append(report)


def reported_by(ranks: Ranks) -> list[dict[str, float]]:
    """The ranks report of other numbers of items, and one under a name that the others do not have."""
    kept = Kept()
    window = StepWindow(Reporters([kept]), ranks, 10, 10)
    for step, names in ((1, ["right"]), (2, ["right", "one"] if ranks.rank == 1 else ["right"]), (3, [])):
        total, count = 2.0 * ranks.rank + step, 1.0 + ranks.rank
        numbers = [0.5, 1.0, *[total] * len(names), *[count] * len(names)]
        record = StepRecord(step, "toy", 1, ("loss",), 0.1, ["a"], Arriving(torch.tensor(numbers)), tuple(names))
        window.add(record)
    window.report()
    return [dict(report.scalars) for report in kept.reports]


def test_reported_numbers_are_means_over_the_items_of_all_processes(tmp_path: Path) -> None:
    for found in run_ranks(reported_by, tmp_path, 3):
        assert found == [
            {"right": pytest.approx((1 + 3 + 5) / (1 + 2 + 3))},
            {"right": pytest.approx((2 + 4 + 6) / (1 + 2 + 3)), "one": pytest.approx(4 / 2)},
            {},
        ]


# --- the kit ---


class Averaging(Callback):
    """Adds a moving average of the gradients to them, and keeps it."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}

    def after_backward(self, step: Any) -> None:
        for name, parameter in step.model.named_parameters():
            if parameter.grad is not None:
                before = self.average.get(name, torch.zeros_like(parameter))
                self.average[name] = (before + parameter.grad) / 2
                parameter.grad.add_(self.average[name])

    def state(self) -> dict[str, torch.Tensor]:
        return self.average

    def load_state(self, state: Any) -> None:
        self.average = dict(state)


class Forgetful(Averaging):
    def state(self) -> dict[str, torch.Tensor]:
        return {}


class Drawing(Callback):
    def after_backward(self, step: Any) -> None:
        for parameter in step.model.parameters():
            parameter.grad.add_(torch.randn_like(parameter.grad))


class Looking(Callback):
    def after_update(self, step: Any) -> None:
        step.report("size", sum(float(each.detach().abs().sum()) for each in step.model.parameters()))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Forgetful, r"what later steps need must be in state\(\)"),
        (Drawing, "two processes that see the same must do the same"),
        (Looking, "must not read values of tensors"),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_callback(kind: type[Callback], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_callback(kind)


def test_the_kit_takes_callbacks_that_keep_their_promises() -> None:
    check_callback(Averaging)
    check_callback(Callback)
    check_callback(Looking, may_read_values=True)
    check_callback(lambda: toys.Watch("a", True, []), may_read_values=True)
    kept = Callback()
    with pytest.raises(AssertionError, match="must return a new callback"):
        check_callback(lambda: kept)
