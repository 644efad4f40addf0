"""What docs/write_a_plugin.md says about training in another way is code that trains."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy_world as toy
from torch import nn
from torch.nn.functional import cross_entropy
from toy_runs import experiment, lines, weights

from vlrun import BackboneOutput, Callback, Entry, TrainingLength, hookimpl
from vlrun.config.optimisation import ParameterGroup
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import plan_parameters, set_learning_rate
from vlrun.plugins.manager import create_plugins
from vlrun.runs.run import run_experiment
from vlrun.seeds import derive_seed
from vlrun.testing import StubBackbone, check_callback

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write_a_plugin.md"


class Towers(nn.Module):
    """The head that the page takes for granted."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.own = toy.ToyHead(hidden_size)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("queue", torch.zeros(4, hidden_size))

    def forward(self, output: BackboneOutput) -> Any:
        return SimpleNamespace(texts=output.text[:, 0], images=output.pooled, own=self.own(output))


class Page(toy.ToyTask):
    """The toy task with that head, in place of the page's ``Task``."""

    def build_head(self, backbone: Any) -> nn.Module:
        return Towers(backbone.hidden_size)

    def loss(self, outputs: Any, targets: Any) -> Any:
        return super().loss(outputs.own, targets)

    def predict(self, outputs: Any, batch: Any) -> Any:
        return super().predict(outputs.own, batch)


def snippets(heading: str) -> list[str]:
    section = PAGE.read_text(encoding="utf-8").partition(f"### {heading}\n")[2]
    return re.findall(r"```python\n(.*?)```", re.split(r"^##", section, flags=re.MULTILINE)[0], re.DOTALL)


def defined(code: list[str], **names: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"torch": torch, **names}
    for part in code:
        exec(dedent(part), space)
    return space


@pytest.fixture
def run(world: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a task that a plugin offers."""

    def train(task: type) -> Path:
        module = module_from_spec(ModuleSpec("page_plugin", None))
        module.__dict__["task"] = lambda config: task()
        names = {"name": "of-page", "config": "vlrun:TaskConfig", "factory": "page_plugin:task", "target": "class"}
        module.__dict__["vlrun_tasks"] = hookimpl(specname="vlrun_tasks")(lambda: [Entry(summary="", **names)])
        monkeypatch.setitem(sys.modules, "page_plugin", module)
        core = [point for point in entry_points(group="vlrun") if point.name == "core"]
        ours = [EntryPoint("toy", "toy_world", "vlrun"), EntryPoint("page", "page_plugin", "vlrun")]
        plugins = create_plugins([*core, *ours])
        options = ["tasks.0.name=of-page", "tasks.0.label=match", "train.epochs=1"]
        return run_experiment(experiment(world, plugins, *options), plugins=plugins).folder

    return train


def test_the_contrastive_task_of_the_page_trains_with_its_queue(run: Any) -> None:
    contrastive, after_update, *_ = snippets("Training in another way")
    space = defined([contrastive, after_update], Task=Page, cross_entropy=cross_entropy)
    space["Contrastive"].after_update = space["after_update"]
    folder = run(space["Contrastive"])
    steps = lines(folder, "step")
    assert {"class", "size", "contrast"} == set(steps[0]["losses"])
    assert all(0 <= step["scalars"]["told apart"] <= 1 for step in steps)
    assert weights(folder)["heads.match.queue"].abs().sum() > 0


def test_the_teacher_of_the_page_is_asked(run: Any) -> None:
    asked: list[str] = []

    class Teacher(nn.Module):
        def forward(self, encoding: Any) -> Any:
            """Pairs (P, ...) -> nothing."""
            asked.append("teacher")
            assert not torch.is_grad_enabled()

    def load(path: str) -> nn.Module:
        asked.append(path)
        return Teacher()

    *_, taught = snippets("Training in another way")
    space = defined([taught], load_network=load)
    loss = Page.loss
    student = type(
        "Student",
        (Page,),
        {
            "companions": space["companions"],
            "training_outputs": space["training_outputs"],
            "loss": lambda self, outputs, targets: loss(self, outputs[0], targets),
        },
    )
    run(student)
    assert asked[0] == "runs/rosita_vqa/latest"
    assert asked.count("teacher") == 3


def test_the_callback_of_the_page_adds_the_same_noise_again() -> None:
    (code,) = snippets("Callbacks")
    kind = defined([code], Callback=Callback, derive_seed=derive_seed)["GradientNoise"]
    check_callback(lambda: kind(SimpleNamespace(share=0.5)))
    noise = kind(SimpleNamespace(share=0.5))
    gradients = []
    for position in (3, 3, 4):
        model = nn.Linear(3, 2)
        model.weight.grad = torch.zeros(2, 3)
        noise.after_backward(SimpleNamespace(model=model, position=position))
        gradients.append(model.weight.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])
    assert gradients[0].std() > 0.1


def test_the_optimiser_and_the_schedule_of_the_page_train() -> None:
    (code,) = snippets("Optimisers and schedules")
    space = defined([code])
    plan = plan_parameters(
        TaskModel(StubBackbone(), {"it": nn.Linear(2, 2)}), [ParameterGroup(match="heads.*", rate=3)]
    )
    optimizer = space["rmsprop"](SimpleNamespace(alpha=0.9, weight_decay=0.1), plan.groups())
    rate = space["halving"](SimpleNamespace(every_epochs=2), TrainingLength(0.5, steps_per_epoch=3, epochs=4))
    assert [rate(step) for step in (0, 5, 6, 12)] == [0.5, 0.5, 0.25, 0.125]
    set_learning_rate(optimizer, rate(6))
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.75]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
