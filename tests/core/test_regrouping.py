"""What may change of the optimisation when a run goes on or is used again: groups, and whether weights are averaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy_runs import experiment, lines, losses, stop_after_step, weights

from vlrun.cli import main
from vlrun.config.experiment import RESERVED_LABELS
from vlrun.errors import ConfigError, StoppedOnRequest, UsageError
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.reporting.run_record import read_run
from vlrun.runs.run import run_experiment

TOYS = "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n"
PROJECT = "{match: 'backbone.project.*', rate: 2}"
HEADS = "{match: 'heads.*', rate: 3, weight_decay: 0.5}"


def run(world: Path, plugins: Plugins, *overrides: str, **options: Any) -> Path:
    return run_experiment(experiment(world, plugins, *overrides), plugins=plugins, **options).folder


def stopped(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    with monkeypatch.context() as patch:
        stop_after_step(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, *overrides)


def protocols(folder: Path) -> list[dict[str, Any]]:
    return [row["protocol"] for row in lines(folder, "result")]


# --- other groups of the same parameters ---


def test_groups_that_say_the_same_in_another_way_continue_bit_for_bit(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, apart = "train.groups=[{match: '*', rate: 2}]", f"train.groups=[{PROJECT}, {{match: 'heads.*', rate: 2}}]"
    whole = run(world, plugins, together)
    stopped(world, plugins, monkeypatch, together)
    again = run(world, plugins, apart, continues=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(again).items())
    assert losses(again) == losses(whole)


def test_other_rates_take_over_the_moments_and_every_later_score_says_so(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(world, plugins, monkeypatch, f"train.groups=[{PROJECT}]")
    changed = f"train.groups=[{PROJECT}, {HEADS}]"
    folder = run(world, plugins, changed, continues=True)
    after = [row for row in lines(folder, "result") if row["step"] > 4]
    (said,) = {row["protocol"]["groups of parameters"] for row in after}
    assert said.startswith("after step 4: train.groups.1.")
    assert "train.groups.1.rate: (none) -> 3.0" in said
    data = json.loads((folder / "data.json").read_text())
    assert data["parameter_groups"]["changes"] == [said]
    assert data["match"]["marks"]["val"]["groups of parameters"] == said
    first = [row for row in lines(folder, "result") if row["step"] <= 4]
    assert first
    assert all("groups of parameters" not in row["protocol"] for row in first)


def test_a_run_that_was_regrouped_says_so_after_another_stop(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(world, plugins, monkeypatch)
    changed = f"train.groups=[{HEADS}]"
    with monkeypatch.context() as patch:
        stop_after_step(patch, 6)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, changed, continues=True)
    (folder,) = (world / "runs" / "toy").glob("2*")
    assert read_run(folder).damage == [], "what the run writes anew is no damage"
    folder = run(world, plugins, changed, continues=True)
    assert len(json.loads((folder / "data.json").read_text())["parameter_groups"]["changes"]) == 1
    assert "groups of parameters" in protocols(folder)[-1]


def test_a_regrouped_run_remembers_that_its_data_were_changed(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(world, plugins, monkeypatch)
    (world / "data" / "train.jsonl").write_text("changed\n")
    changed = f"train.groups=[{HEADS}]"
    with monkeypatch.context() as patch:
        stop_after_step(patch, 6)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, changed, continues=True, accepts_changed_data=True)
    folder = run(world, plugins, changed, continues=True)
    assert {"groups of parameters", "data changed"} <= protocols(folder)[-1].keys()
    assert json.loads((folder / "data.json").read_text()).keys() - RESERVED_LABELS == {"match"}


def test_groups_with_which_others_train_are_refused(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(world, plugins, monkeypatch)
    frozen = "train.groups=[{match: 'backbone.project.*', frozen: true}]"
    with pytest.raises(ConfigError) as caught:
        run(world, plugins, frozen, continues=True)
    assert caught.value.problems[1] == ("  would not train any more: backbone.project.bias, backbone.project.weight")
    run(world, plugins, continues=True)  # as it was, it goes on


# --- norms of the gradient ---


def test_norms_of_groups_are_reported_and_change_no_bit(world: Path, plugins: Plugins) -> None:
    plain = run(world, plugins, "train.groups=[{match: 'heads.*', rate: 1}, {match: 'backbone.*', rate: 1}]")
    folder = run(
        world,
        plugins,
        "train.groups=[{match: 'heads.*', rate: 1}, {match: 'backbone.*', rate: 1}]",
        "train.gradient_norms=true",
    )
    assert losses(folder) == losses(plain)
    for row in lines(folder, "step"):
        heads, backbone = (row["scalars"][f"gradient norm/{name}.*"] for name in ("heads", "backbone"))
        assert (heads**2 + backbone**2) ** 0.5 == pytest.approx(row["gradient_norm"], rel=1e-5)


def test_without_groups_norms_are_those_of_the_backbone_and_of_each_head(world: Path, plugins: Plugins) -> None:
    row = lines(run(world, plugins, "train.gradient_norms=true", "train.epochs=1"), "step")[0]
    assert set(row["scalars"]) == {"gradient norm/backbone", "gradient norm/heads.match"}


# --- the average, or the weights as they were trained ---


@pytest.fixture
def averaged(world: Path, install: Callable[..., None]) -> Path:
    install("vlrun-toys", TOYS)
    return run(world, create_plugins(), "train.ema={decay: 0.8}", "train.epochs=1")


def test_a_run_is_evaluated_with_the_weights_as_they_were_trained_by_choice(
    averaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(averaged), "--without-average", "--json"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert {row["score"]["protocol"]["weights"] for row in rows} == {"without the average"}
    assert "weights: as they were trained instead of averaged" in captured.err
    others = list((averaged / "evaluations").glob("*/predictions/match_val.jsonl"))
    assert len(others) == 1, "the run's own predictions stay as they are"
    assert main(["evaluate", str(averaged), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["score"]["protocol"]["weights"] for row in rows} == {"averaged over steps, decay 0.8"}


def test_weights_are_exported_as_they_were_trained_by_choice(averaged: Path, tmp_path: Path) -> None:
    last = averaged / "checkpoints" / "last"
    for arguments, file in (([], "model.safetensors"), (["--without-average"], "trained.safetensors")):
        out = tmp_path / f"{len(arguments)}.safetensors"
        assert main(["weights", "export", str(averaged), str(out), "--checkpoint", "last", *arguments]) == 0
        expected = load_file(last / file)["backbone.project.weight"]
        assert torch.equal(load_file(out)["project.weight"], expected)
        with safe_open(out, framework="pt") as exported:
            source = json.loads(exported.metadata()["vlrun"])["source"]
        assert source.endswith("without the average") == bool(arguments)


def test_a_damaged_file_of_trained_weights_is_found_where_it_is_read(averaged: Path) -> None:
    file = averaged / "checkpoints" / "last" / "trained.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(bytes(damaged))
    assert main(["evaluate", str(averaged)]) == 0
    assert main(["evaluate", str(averaged), "--without-average"]) == 6


def test_a_run_without_an_average_cannot_do_without_it(
    world: Path, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toys", TOYS)
    folder = run(world, create_plugins(), "train.epochs=1")
    assert main(["evaluate", str(folder), "--without-average"]) == UsageError.exit_status
    assert "the run keeps no average of its weights" in capsys.readouterr().err


# --- sizes of groups before a run ---


def test_print_config_says_how_many_parameters_each_group_has(
    world: Path, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toys", TOYS)
    words = [str(world / "toy.yaml"), "--print-config", f"data_root={world / 'data'}"]
    frozen = "train.groups=[{match: 'heads.*', rate: 10}, {match: 'backbone.unused.*', frozen: true}]"
    for verb in ("run", "validate"):
        assert main([verb, *words, frozen]) == 0
        *_, title, heads, unused, total = capsys.readouterr().out.splitlines()
        assert title == "# train.groups:"
        assert heads == "#   heads.*: 22 in 2 tensors, rate x 10"
        assert unused == "#   backbone.unused.*: 12 in 2 tensors, frozen"
        assert total == "#   89 of 101 parameters train"
    assert main(["validate", *words]) == 0
    assert "# train.groups:" not in capsys.readouterr().out


def test_print_config_names_a_group_that_matches_nothing(
    world: Path, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toys", TOYS)
    words = [str(world / "toy.yaml"), "--print-config", f"data_root={world / 'data'}"]
    assert main(["validate", *words, "train.groups=[{match: 'haeds.*', rate: 10}]"]) == ConfigError.exit_status
    assert "'haeds.*' matches no parameter" in capsys.readouterr().err


# --- an optimiser and a schedule of a plugin ---

PLUGIN = """
    from __future__ import annotations

    import torch
    from vlrun import Entry, OptimizerConfig, ScheduleConfig, hookimpl

    class SignConfig(OptimizerConfig):
        name: str = "sign"
        momentum: float = 0.5

    class HalvingConfig(ScheduleConfig):
        name: str = "halving"
        every: int = 2

    class Sign(torch.optim.Optimizer):
        def __init__(self, groups, momentum, weight_decay):
            super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})
            self.momentum = momentum

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        state = self.state[parameter]
                        mean = state.setdefault("mean", torch.zeros_like(parameter))
                        mean.lerp_(parameter.grad, 1 - self.momentum)
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                        parameter.sub_(mean.sign(), alpha=group["lr"])

    def sign(config, groups):
        return Sign(groups, config.momentum, config.weight_decay)

    def halving(config, length):
        return lambda step: length.learning_rate * 0.5 ** (step // config.every)

    @hookimpl
    def vlrun_optimizers():
        return [Entry(name="sign", summary="by sign", config="vlrun_sign:SignConfig", factory="vlrun_sign:sign")]

    @hookimpl
    def vlrun_schedules():
        return [
            Entry(name="halving", summary="halves", config="vlrun_sign:HalvingConfig", factory="vlrun_sign:halving")
        ]
"""
OUTSIDE = ["train.optimizer={name: sign, momentum: 0.8}", "train.schedule={name: halving, every: 3}"]


def test_an_optimiser_and_a_schedule_of_a_plugin_train_and_resume(
    world: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toys", TOYS)
    install("vlrun-sign", PLUGIN)
    assert main(["list-plugins", "--check"]) == 0
    listed = capsys.readouterr().out
    assert "optimizer: sign" in listed
    assert "schedule: halving" in listed
    plugins = create_plugins()
    options = [*OUTSIDE, "train.groups=[{match: 'heads.*', rate: 10, weight_decay: 0.1}]"]
    whole = run(world, plugins, *options)
    rates = [row["learning_rate"] for row in lines(whole, "step")]
    assert rates == [0.01 * 0.5 ** (step // 3) for step in range(len(rates))]
    stopped(world, plugins, monkeypatch, *options)
    again = run(world, plugins, *options, continues=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(again).items())
    kept = load_file(again / "checkpoints" / "last" / "optimizer.safetensors")
    assert "backbone.project.weight/mean" in kept


def test_options_of_an_outside_optimiser_are_checked(world: Path, install: Callable[..., None]) -> None:
    install("vlrun-toys", TOYS)
    install("vlrun-sign", PLUGIN)
    with pytest.raises(ConfigError, match=r"train\.optimizer\.momentom: unknown option\. Did you mean 'momentum'"):
        experiment(world, create_plugins(), "train.optimizer={name: sign, momentom: 0.8}")
