"""docs/cookbook.md: every row leads to a test that is there, and what it shows works."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import toy_world as toy
from torch import Tensor, nn

from vlrun import (
    Callback,
    DataError,
    Dataset,
    Encoding,
    Example,
    Metric,
    Prediction,
    RegionFeatures,
    RegionFeatureStore,
    Reporter,
    Score,
)
from vlrun.blocks.predictions import listed, mismatches
from vlrun.config.train import TrainConfig
from vlrun.engine.evaluation_history import EvaluationHistory
from vlrun.features.writer import write_store
from vlrun.foreign.yaml import parse_yaml
from vlrun.testing import (
    PUBLIC,
    StubBackbone,
    check_callback,
    check_metric,
    check_optimizer,
    check_reporter,
    check_schedule,
    check_task,
    make_regions,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cookbook.md"
TEXT = PAGE.read_text(encoding="utf-8")
GUIDE = PAGE.with_name("write_a_plugin.md").read_text(encoding="utf-8")
TABLE = TEXT[: TEXT.index("## No, because")]


def snippets(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown(name: str, text: str = TEXT, **given: Any) -> Any:
    """What a snippet of a page defines."""
    (code,) = [
        snippet for snippet in snippets("python", text) if re.search(rf"^(class|def) {name}\b", snippet, re.MULTILINE)
    ]
    names = {"dataclass": dataclass, "replace": replace, "np": np, "Tensor": Tensor, "Encoding": Encoding}
    names |= {"RegionFeatures": RegionFeatures, "Reporter": Reporter, "torch": torch, "__name__": __name__, **given}
    exec(code, names)
    globals()[name] = names[name]  # where pickle looks for it
    return names[name]


def test_every_row_is_answered_by_a_test_that_is_there() -> None:
    rows = [line for line in TABLE.splitlines() if re.match(r"\| (?!can a plugin …|it …)", line)]
    assert len(rows) >= 42
    for row in rows:
        links = re.findall(r"\[([^\]]+)\]\((\.\./tests/[^)]+\.py)\)", row.split("|")[3])
        assert links, row
        for sentence, path in links:
            name = f"def test_{sentence.replace(' ', '_')}("
            assert name in (PAGE.parent / path).read_text(encoding="utf-8"), f"{path} has no {name}"


def test_links_within_the_page_lead_to_its_sections() -> None:
    sections = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall("^## (.*)", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= sections


@pytest.mark.parametrize("snippet", snippets("yaml"))
def test_what_the_page_says_in_yaml_is_valid(snippet: str) -> None:
    given: Any = parse_yaml(snippet).data
    optimizer = given["train"].pop("optimizer", None)
    assert TrainConfig.model_validate(given["train"]).epochs
    assert optimizer is None or optimizer["name"] == "adamw"


def test_a_task_subclass_adds_a_loss() -> None:
    task = shown("Smoothed", Parent=toy.ToyTask)()
    examples = [toy.ToyDataset(None, "val")[index] for index in range(4)]  # type: ignore[arg-type]
    regions = make_regions([f"img{index}" for index in range(toy.NUM_IMAGES)], 8)
    batch = check_task(task, StubBackbone(), examples, regions)
    assert task.loss(torch.ones(4, 2), batch.targets)["size"] == pytest.approx(0.08)


def test_an_encoding_takes_another_field_along() -> None:
    kind = shown("TypedEncoding")
    regions = make_regions(["a"], 8)
    plain = StubBackbone().pair_encoder(20)([toy.Pair("red ball", "a")], regions)
    typed = kind(**vars(plain), region_types=torch.ones(1, 5, dtype=torch.int64))
    moved = typed.to("meta")
    assert isinstance(moved, kind)
    assert moved.region_types.device.type == "meta"
    assert kind(**vars(plain)).region_types is None


def test_grid_cells_are_regions(tmp_path: Path) -> None:
    features = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    write_store(tmp_path / "grid", [shown("grid")("image", features, 100, 300)])
    stored = RegionFeatureStore(tmp_path / "grid")["image"]
    assert stored.boxes.tolist()[:2] == [[0, 0, 100, 50], [100, 0, 200, 50]]
    assert stored.boxes.tolist()[-1] == [200, 50, 300, 100]
    assert np.array_equal(stored.features, features.reshape(6, 4))


def test_texts_change_in_training_and_not_in_evaluation() -> None:
    task = shown("Dropped", Parent=toy.ToyTask)()
    text = " ".join(map(str, range(100)))
    example = Example("1", text, ("img0",), 1)
    (pair, *_) = task.pairs_in_batch(example, [example], np.random.default_rng(0))
    assert 75 < len(pair.text.split()) < 99
    assert task.pairs(example, np.random.default_rng(0))[0].text == text
    assert task.pairs_in_batch(replace(example, text="one"), [example], np.random.default_rng(1))[0].text == "one"


def test_the_metric_of_the_guide_keeps_its_promises() -> None:
    metric = shown(
        "ExactMatch", GUIDE, Metric=Metric, mismatches=mismatches, listed=listed, DataError=DataError, Score=Score
    )
    dataset = Answered()
    (score,) = check_metric(metric(), dataset, [Prediction(name, {"answer": name}) for name in "abc"])
    assert score.value == pytest.approx(200 / 3)


class Answered(Dataset[str]):
    split = "val"

    def __init__(self) -> None:
        self.protocol = {"dataset": "letters"}

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Example[str]:
        return Example("abc"[index], "Which letter?", ("image",), "abb"[index])


def test_the_reporter_of_the_guide_keeps_its_promises() -> None:
    check_reporter(shown("Best", GUIDE))


def test_the_optimiser_and_the_schedule_of_the_guide_keep_their_promises() -> None:
    options = SimpleNamespace(alpha=0.9, weight_decay=0.1, every_epochs=1)
    check_optimizer(shown("rmsprop", GUIDE), options)
    rates = check_schedule(shown("halving", GUIDE), options)
    assert rates[::7] == [0.001, 0.0005, 0.00025, 0.000125]


def test_the_page_on_the_architecture_says_what_is_public() -> None:
    page = PAGE.with_name("architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## What is public") : page.index("## From disk to loss")]
    told = set()
    for first, second in re.findall(r"^\| (`vlrun[^|]*) \| ([^|]*) \|", table, re.M):
        packages, modules = (re.findall("`([\\w.]+)`", text) for text in (first, second))
        told |= {name for name in packages if name in PUBLIC}
        told |= {f"{package}.{module}" for package in packages for module in modules if f"{package}.{module}" in PUBLIC}
    assert told == set(PUBLIC)


@pytest.mark.parametrize(
    ("primary", "wanted", "best"),
    [((True, True), None, 1), ((False, True), None, 2), ((False, False), None, 1), ((True, False), "second", 2)],
    ids=["the first primary one", "the primary one", "the first of all", "the one that is named"],
)
def test_the_best_step_is_that_of_the_score_that_counts(
    tmp_path: Path, primary: tuple[bool, bool], wanted: str | None, best: int
) -> None:
    history = EvaluationHistory(tmp_path / "evaluations.json", {"task": wanted})
    for step, values in {1: (9.0, 1.0), 2: (8.0, 2.0)}.items():
        named = zip(("first", "second"), values, primary, strict=True)
        history.add(step, "task", "val", [Score(name, value, primary=counts) for name, value, counts in named])
    assert history.best_step(["task"]) == best


def test_the_noise_scale_of_the_page_is_that_of_the_gradients() -> None:
    kind = shown("NoiseScale", Callback=Callback)
    check_callback(lambda: kind(SimpleNamespace(batch_size=8)))
    size, variance, callback = 400, 3.0, kind(SimpleNamespace(batch_size=8))
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(size, 1, bias=False)
    told: dict[str, list[float]] = {"squared gradient": [], "gradient variance": []}
    for _ in range(400):  # each example's gradient is 0.5 in every place, with noise
        noise = torch.randn(1, size, generator=generator) * (variance / 8) ** 0.5
        model.weight.grad = 0.5 + noise
        callback.after_backward(
            SimpleNamespace(model=model, report=lambda name, value: told[name].append(float(value)))
        )
    assert len(told["squared gradient"]) == 200, "two steps for each number"
    assert np.mean(told["squared gradient"]) == pytest.approx(0.25 * size, rel=0.02)
    assert np.mean(told["gradient variance"]) == pytest.approx(variance * size, rel=0.02)
