"""The examples that change training keep the promises of a task, as VQA; in whole runs tests/core has them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vlrun_distillation.task
from vlrun import Answers, ConfigError, Encoding, Example
from vlrun.blocks.answers import write_answers
from vlrun.config.experiment import load_experiment
from vlrun.testing import StubBackbone, check_task, make_regions
from vlrun_contrastive.config import ContrastiveVqaConfig
from vlrun_contrastive.task import ContrastiveVqa
from vlrun_distillation.config import DistilledVqaConfig
from vlrun_distillation.task import DistilledVqa
from vlrun_r_drop.config import RDropVqaConfig
from vlrun_r_drop.task import RDropVqa

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANSWERS = ("yes", "no", "two")
QUESTIONS = [
    Example(str(number), "is it red " + "very " * number, (f"image{number}",), Answers((answer,) * 10))
    for number, answer in enumerate([*ANSWERS, "no", "yes"])
]


class Network(nn.Module):
    """Stands in for the network of another run."""

    vocabulary_hash = ""

    def __init__(self, meaning: dict[str, Any]) -> None:
        super().__init__()
        self.meaning = meaning

    def forward(self, encoding: Encoding) -> torch.Tensor:
        """Pairs (P, ...) -> logits (P, 3)."""
        return encoding.boxes.sum((1, 2))[:, None] * encoding.boxes.new_ones(3).cumsum(0)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Any]:
    def task(kind: type, config: type, **options: Any) -> Any:
        write_answers(tmp_path / "answers.json", ANSWERS)
        dataset = {"name": "vqav2", "annotations": "annotations", "features": "features", "evaluate": ["val"]}
        return kind(config(**{"name": "it", "dataset": dataset, "answers": tmp_path / "answers.json", **options}))

    return task


@pytest.mark.parametrize("loss", ["bce", "kl", "cross-entropy"])
@pytest.mark.parametrize(
    ("kind", "config", "options"),
    [
        pytest.param(RDropVqa, RDropVqaConfig, {}, id="r-drop"),
        pytest.param(ContrastiveVqa, ContrastiveVqaConfig, {"queue": 3}, id="contrastive"),
        pytest.param(ContrastiveVqa, ContrastiveVqaConfig, {}, id="contrastive without queue"),
        pytest.param(ContrastiveVqa, ContrastiveVqaConfig, {"momentum": 0.9}, id="contrastive with a slow copy"),
        pytest.param(DistilledVqa, DistilledVqaConfig, {"teacher": Path("runs/big")}, id="distilled"),
    ],
)
def test_the_tasks_keep_their_promises(
    make: Callable[..., Any], kind: type, config: type, options: dict[str, Any], loss: str
) -> None:
    torch.manual_seed(0)
    regions = make_regions([f"image{number}" for number in range(5)], 8)
    companions = {"teacher": Network({})}
    check_task(make(kind, config, loss=loss, **options), StubBackbone(), QUESTIONS, regions, companions=companions)


def test_a_teacher_of_other_answers_is_refused(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(DistilledVqa, DistilledVqaConfig, teacher=Path("runs/big"))

    def load(answers: list[str], path: Path) -> Network:
        return Network({"answers": answers})

    monkeypatch.setattr(vlrun_distillation.task, "load_network", partial(load, list(ANSWERS)))
    assert set(task.companions()) == {"teacher"}
    monkeypatch.setattr(vlrun_distillation.task, "load_network", partial(load, list(ANSWERS[::-1])))
    with pytest.raises(ConfigError, match="its classes are not those of this task, or in another order"):
        task.companions()


def test_the_teacher_is_a_file_that_a_run_asks_for(make: Callable[..., Any]) -> None:
    config = make(DistilledVqa, DistilledVqaConfig, teacher=Path("runs/big")).config
    assert Path("runs/big/checkpoints/best/model.safetensors") in [file.path for file in config.required_files()]


@pytest.mark.parametrize("name", ["contrastive", "distillation", "r_drop"])
def test_the_experiments_of_the_examples_are_valid(name: str, install: Any) -> None:
    point = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())["project"]["entry-points"]["vlrun"]
    (module,) = point.values()
    install(f"vlrun-example-{name}".replace("_", "-"), f"from {module} import vlrun_tasks\n")
    experiment = load_experiment(EXAMPLES / name / "experiment.yaml")
    assert experiment.tasks[0].name.startswith("vqa-")


def test_r_drop_is_a_plugin_of_under_80_lines() -> None:
    assert sum(len(file.read_text().splitlines()) for file in (EXAMPLES / "r_drop").rglob("*.py")) < 80
