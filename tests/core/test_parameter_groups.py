"""Parameters with a rate or a decay of their own, frozen ones, averaged weights, and which checkpoint is the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optimising import built_in, make_optimizer, make_options, make_schedule
from safetensors.torch import load_file
from torch import nn
from toy_runs import experiment, losses, ranks_run, stop_after_step, weights

from vlrun.config.optimisation import ParameterGroup
from vlrun.engine.layer_depths import layer_depths
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import ParameterPlan, plan_parameters, set_learning_rate
from vlrun.errors import ConfigError, StoppedOnRequest
from vlrun.interfaces.backbone import Backbone
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment
from vlrun.testing import StubBackbone

UNITERS = [
    {"match": "heads.*", "rate": 10},
    {"match": "*norm*|*.bias", "weight_decay": 0},
]


class Layered(StubBackbone):
    """Two stacks side by side, then one; embeddings before them, a pooler after them."""

    layer_stacks = (("short", "long"), ("cross",))

    def __init__(self) -> None:
        super().__init__()
        del self.match, self.regions, self.words
        self.embeddings = nn.Linear(2, 2)
        self.short = nn.ModuleList(nn.Linear(2, 2) for _ in range(1))
        self.long = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.cross = nn.ModuleList(nn.ModuleDict({"norm": nn.LayerNorm(2)}) for _ in range(2))
        self.pooler = nn.Linear(2, 2)


def model(backbone: Backbone | None = None) -> TaskModel:
    return TaskModel(backbone or Layered(), {"vqa": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))})


def plan(*groups: dict[str, Any]) -> ParameterPlan:
    return plan_parameters(model(), [ParameterGroup(**group) for group in groups])


def run(world: Path, plugins: Plugins, *overrides: str, **options: Any) -> Path:
    return run_experiment(experiment(world, plugins, *overrides), plugins=plugins, **options).folder


def test_a_later_group_overrides_what_it_sets_and_nothing_else() -> None:
    treatments = plan(*UNITERS, {"match": "heads.vqa.1.*", "rate": 2}).treatments
    assert (treatments["heads.vqa.0.weight"].rate, treatments["heads.vqa.0.weight"].weight_decay) == (10, None)
    assert (treatments["heads.vqa.0.bias"].rate, treatments["heads.vqa.0.bias"].weight_decay) == (10, 0)
    assert (treatments["heads.vqa.1.bias"].rate, treatments["heads.vqa.1.bias"].weight_decay) == (2, 0)
    assert (
        treatments["backbone.cross.0.norm.weight"].rate,
        treatments["backbone.cross.0.norm.weight"].weight_decay,
    ) == (
        1,
        0,
    )


def test_patterns_that_match_nothing_are_told_together_with_what_is_near() -> None:
    with pytest.raises(ConfigError) as caught:
        plan({"match": "heads.vga.*", "rate": 2}, {"match": "*", "rate": 2}, {"match": "pooller", "frozen": True})
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("train.groups.0.match: 'heads.vga.*' matches no parameter; there is ")
    assert "heads.vqa" in caught.value.problems[0]
    assert "train.groups.2.match" in caught.value.problems[1]


def test_layers_are_counted_from_the_inputs_and_side_by_side_ones_end_together() -> None:
    depths = layer_depths(Layered())
    expected = {"embeddings": 0, "long.0": 1, "long.2": 3, "short.0": 3, "cross.0": 4, "cross.1": 5}
    for prefix, depth in expected.items():
        assert {found for name, found in depths.items() if name.startswith(prefix)} == {depth}
    assert not any(name.startswith("pooler") for name in depths), "it is as far from the inputs as a head"


def test_the_rate_decays_with_each_layer_below_the_heads() -> None:
    treatments = plan({"match": "heads.*", "rate": 3}, {"layer_decay": 0.5}).treatments
    rates = {
        "heads.vqa.0.weight": 3,
        "backbone.pooler.weight": 1,
        "backbone.cross.1.norm.weight": 0.5,
        "backbone.long.0.weight": 0.5**5,
        "backbone.embeddings.weight": 0.5**6,
    }
    assert {name: treatments[name].rate for name in rates} == rates
    with pytest.raises(ConfigError, match="StubBackbone does not say what its layers are"):
        plan_parameters(model(StubBackbone()), [ParameterGroup(layer_decay=0.5)])


def test_every_parameter_trains_once_and_frozen_ones_never() -> None:
    made = plan(*UNITERS, {"match": "backbone.embeddings.*", "frozen": True}, {"layer_decay": 0.9})
    made.freeze()
    grouped = [id(parameter) for group in made.groups() for parameter in group["params"]]
    trained = [id(parameter) for parameter in made.model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained)
    assert len(trained) == len(list(made.model.parameters())) - 2
    assert ("groups", "backbone.embeddings.*: 6 in 2 tensors, frozen") in made.facts()
    total = sum(parameter.numel() for parameter in made.model.parameters())
    assert made.facts()[-1] == ("groups", f"{total - 6} of {total} parameters train")


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="all parameters are frozen"):
        plan({"frozen": True})


@pytest.mark.parametrize(
    "group", [{"match": "*"}, {"until_epoch": 2}, {"layer_decay": 1.5}, {"rate": 0}, {"match": "", "rate": 1}]
)
def test_a_group_says_something_that_makes_sense(group: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ParameterGroup(**group)


def test_without_groups_there_is_one_and_a_rate_without_a_factor() -> None:
    (group,) = plan().groups()
    optimizer = make_optimizer(make_options("optimizer", name="adamw"), plan().model.named_parameters())
    set_learning_rate(optimizer, 0.3)
    assert set(group) == {"params", "lr"}
    assert not plan().facts()
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_rate_and_decay_of_a_group_are_what_the_optimizer_uses() -> None:
    made = plan({"match": "heads.*", "rate": 10, "weight_decay": 0.5})
    options = make_options("optimizer", name="sgd", momentum=0.0, weight_decay=0.0)
    optimizer = built_in().find("optimizer", "sgd").build(options, made.groups())
    before = {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}
    for parameter in made.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    after = dict(made.model.named_parameters())
    name = "backbone.pooler.weight"
    torch.testing.assert_close(after[name].detach(), before[name] - 0.01)
    name = "heads.vqa.0.weight"
    torch.testing.assert_close(after[name].detach(), before[name] - 0.1 * (1 + 0.5 * before[name]))


# --- whole runs ---


def test_a_group_that_changes_nothing_changes_no_bit(world: Path, plugins: Plugins) -> None:
    plain, grouped = run(world, plugins), run(world, plugins, "train.groups=[{match: 'heads.*', rate: 1}]")
    assert losses(plain) == losses(grouped)
    assert all(torch.equal(weights(plain)[name], value) for name, value in weights(grouped).items())


def test_frozen_parameters_stay_as_they_are_without_decay(world: Path, plugins: Plugins) -> None:
    start = weights(run(world, plugins, "train.epochs=1", "train.learning_rate=1e-30"))
    frozen = weights(run(world, plugins, "train.groups=[{match: 'backbone.project.*', frozen: true}]"))
    assert torch.equal(frozen["backbone.project.weight"], start["backbone.project.weight"])
    assert not torch.equal(frozen["heads.match.linear.weight"], start["heads.match.linear.weight"])


def test_parameters_thaw_when_their_epoch_begins_also_after_a_stop(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "train.groups=[{match: 'backbone.project.*', frozen: true, until_epoch: 2}]"
    keep = "train.keep_checkpoints=9"
    whole = run(world, plugins, rule, keep)
    steps = sorted((whole / "checkpoints").glob("step_*"))
    projects = [load_file(step / "model.safetensors")["backbone.project.weight"] for step in steps]
    assert torch.equal(projects[0], projects[1])
    assert not torch.equal(projects[1], projects[2])
    with monkeypatch.context() as patch:
        stop_after_step(patch, len(losses(whole)) - 1)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, rule, keep)
    again = run(world, plugins, rule, keep, continues=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(again).items())


@pytest.mark.parametrize("world_size", [1, 2])
def test_groups_and_averages_are_the_same_for_any_number_of_processes(
    world: Path, plugins: Plugins, world_size: int
) -> None:
    options = [
        "train.micro_batches=2",
        "train.ema={decay: 0.9}",
        "train.groups=[{match: 'heads.*', rate: 3}, {match: 'backbone.project.bias', frozen: true, until_epoch: 1}]",
    ]
    alone = run(world, plugins, *options)
    ranks_run(world, plugins, world_size, *options)
    (folder,) = (world / f"runs{world_size}" / "toy").glob("[0-9]*")
    for file in ("model.safetensors", "trained.safetensors"):
        ours, theirs = (load_file(each / "checkpoints" / "last" / file) for each in (alone, folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_average_is_evaluated_kept_and_continued(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, averaged = run(world, plugins, "train.log_every=1"), run(world, plugins, "train.ema={decay: 0.8}")
    last = averaged / "checkpoints" / "last"
    trained, kept = load_file(last / "trained.safetensors"), load_file(last / "model.safetensors")
    assert all(torch.equal(weights(plain)[name], value) for name, value in trained.items()), "training is not changed"
    assert not torch.equal(trained["backbone.project.weight"], kept["backbone.project.weight"])
    assert losses(plain) == losses(averaged)

    with monkeypatch.context() as patch:
        stop_after_step(patch, 5)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, "train.ema={decay: 0.8}")
    again = run(world, plugins, "train.ema={decay: 0.8}", continues=True) / "checkpoints" / "last"
    for name, value in load_file(again / "model.safetensors").items():
        assert torch.equal(value, kept[name])


def test_the_average_is_that_of_the_formula(world: Path, plugins: Plugins) -> None:
    decay = 0.7
    folder = run(
        world, plugins, f"train.ema={{decay: {decay}}}", "train.checkpoint_every=1", "train.keep_checkpoints=99"
    )
    steps = [path for path in sorted((folder / "checkpoints").glob("step_*")) if path.is_dir()]
    trained = [load_file(path / "trained.safetensors")["heads.match.linear.weight"].double() for path in steps]
    kept = [load_file(path / "model.safetensors")["heads.match.linear.weight"] for path in steps]
    average = trained[0]
    for number, (value, found) in enumerate(zip(trained, kept, strict=True)):
        if number:
            stays = min(decay, (1 + number) / (10 + number))
            average = stays * average + (1 - stays) * value
        torch.testing.assert_close(found.double(), average, rtol=1e-5, atol=1e-7)


def test_scores_say_that_weights_are_averaged(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins, "train.ema={decay: 0.8}"), plugins=plugins)
    assert {row.score.protocol["weights"] for row in result.rows} == {"averaged over steps, decay 0.8"}


def test_the_best_checkpoint_is_chosen_by_the_score_that_is_named(world: Path, plugins: Plugins) -> None:
    import toy_world as toy

    from vlrun import Score

    class WithSteps(toy.Accuracy):
        calls = 0

        def __call__(self, predictions: Any, dataset: Any) -> list[Score]:
            type(self).calls += 1
            return [*super().__call__(predictions, dataset), Score("rank", -float(self.calls), "", 1)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "Accuracy", WithSteps)
        folder = run(world, plugins, "tasks.0.best_score=rank", "train.keep_checkpoints=9")
        steps = sorted(path.name for path in (folder / "checkpoints").glob("step_*"))
        assert (folder / "checkpoints" / "best").readlink().name == steps[0]


def test_an_unknown_score_is_told_with_those_there_are_and_nothing_is_lost(world: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"best_score 'acuracy' is none of its scores on val: accuracy\. Did"):
        run(world, plugins, "tasks.0.best_score=acuracy")
    folder = run(world, plugins, "tasks.0.best_score=accuracy", continues=True)
    assert len(losses(folder)) == len(losses(run(world, plugins)))


def test_another_score_cannot_be_named_on_the_way_where_it_decides_which_steps_are_trained(
    world: Path, plugins: Plugins
) -> None:
    rule = "train.stop_and_go={patience: 1, min_gain: 200, fall_back: 200}"
    run(world, plugins, rule)
    with pytest.raises(ConfigError, match=r"tasks\.0\.best_score: None -> 'accuracy'"):
        run(world, plugins, rule, "tasks.0.best_score=accuracy", continues=True)


def test_one_task_stops_early_without_gain(world: Path, plugins: Plugins) -> None:
    rule = "train.stop_and_go={patience: 1, min_gain: 200, fall_back: 200}"
    assert len(losses(run(world, plugins, rule, "train.epochs=5"))) < len(losses(run(world, plugins, "train.epochs=5")))


# --- schedules ---


def test_a_cosine_falls_from_the_peak_to_its_end_and_stays() -> None:
    config = make_options("schedule", name="cosine", warmup_epochs=1, end_factor=0.1)
    rate = make_schedule(config, 2.0, steps_per_epoch=4, epochs=5)
    assert [rate(0), rate(2), rate(4)] == pytest.approx([0, 1, 2])
    assert rate(12) == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert [rate(20), rate(30)] == pytest.approx([0.2, 0.2])


def test_a_polynomial_of_power_one_is_the_straight_line() -> None:
    lines = [
        make_schedule(make_options("schedule", name=name, warmup_epochs=1), 1.0, steps_per_epoch=3, epochs=4)
        for name in ("polynomial", "warmup-linear")
    ]
    assert [lines[0](step) for step in range(14)] == pytest.approx([lines[1](step) for step in range(14)])
    bent = make_options("schedule", name="polynomial", warmup_epochs=0, power=2)
    assert make_schedule(bent, 1.0, steps_per_epoch=1, epochs=4)(2) == pytest.approx(0.25)


def test_one_cycle_is_that_of_torch() -> None:
    steps = 20
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=steps)
    ours = make_schedule(make_options("schedule", name="one-cycle"), 0.5, steps_per_epoch=4, epochs=5)
    for step in range(steps):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), step
        optimizer.step()
        theirs.step()


def test_lamb_moves_each_tensor_by_the_rate_times_its_norm() -> None:
    pytest.importorskip("pytorch_optimizer")
    parameter = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0)))
    before, options = parameter.detach().clone(), make_options("optimizer", name="lamb", weight_decay=0.0)
    optimizer = make_optimizer(options, [("p", parameter)])
    parameter.grad = torch.linspace(-3, 5, 5)
    first, second = 0.1 * parameter.grad, 0.001 * parameter.grad**2
    direction = first / (second.sqrt() + options.eps)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    expected = before - 0.1 * before.norm() / direction.norm() * direction
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "bert-adam", "sgd", "lamb"])
def test_every_optimizer_resumes_bit_for_bit(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "lamb":
        pytest.importorskip("pytorch_optimizer")
    option = f"train.optimizer={{name: {name}}}"
    whole = run(world, plugins, option)
    with monkeypatch.context() as patch:
        stop_after_step(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, option)
    again = run(world, plugins, option, continues=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(again).items())
