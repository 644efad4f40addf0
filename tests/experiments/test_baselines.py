"""The baselines in benchmarks/ compute what the backbones compute, and count as many operations; and so on the demo."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optimising import make_optimizer, make_options
from torch import nn

from vlrun import Backbone, Encoding
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.cli import main
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import set_learning_rate
from vlrun.interfaces.examples import Pair
from vlrun.plugins.manager import create_plugins
from vlrun.runs.bench.baseline import load_baselines
from vlrun.runs.bench.products import _without_memory
from vlrun.testing import make_regions

ROOT = Path(__file__).resolve().parents[2]
BASELINES = ROOT / "benchmarks" / "baselines"
NAMES = ("rosita", "lxmert", "lxmert-s")


@pytest.fixture
def written_out(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BASELINES))
    import written_out

    return written_out


def network(name: str, folder: Path) -> Backbone:
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a", "cat", "dog", "on", "the", "left"]) + "\n")
    entry = create_plugins().find("backbone", name)
    options = {"size": "tiny", "region_feature_size": 16, "num_regions": 6, "vocabulary": folder / "vocab.txt"}
    torch.manual_seed(0)
    backbone: Backbone = entry.build(entry.load_config()(name=name, **options))
    for parameter in backbone.parameters():  # biases and norms start with 0 and 1, which would hide a mistake
        nn.init.normal_(parameter, std=0.05)
    return backbone.eval()


def encoded(backbone: Backbone) -> Encoding:
    texts = ["a cat on the left", "dog", "the dog on a cat"]
    pairs = [Pair(text, f"image{number}") for number, text in enumerate(texts)]
    return backbone.pair_encoder(12)(pairs, make_regions([pair.image_id for pair in pairs], 16))


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_is_the_same_network(name: str, tmp_path: Path) -> None:
    backbone = network(name, tmp_path)
    encoding = encoded(backbone)
    assert not encoding.text_mask.all()
    assert not encoding.region_mask.all()
    found = load_baselines(BASELINES, backbone, name)
    assert [baseline.name for baseline in found][:1] == ["the paper's way, fp32"]
    with torch.no_grad():
        ours = backbone(encoding)
        for baseline in found:
            half = encoding.region_features
            features = half if baseline.takes_half else half.float()
            theirs = baseline.network.eval()(replace(encoding, region_features=features))
            assert torch.allclose(ours.pooled, theirs.pooled, atol=1e-5)
            assert torch.allclose(ours.text[ours.text_mask], theirs.text[ours.text_mask], atol=1e-5)
            assert torch.allclose(ours.regions[ours.region_mask], theirs.regions[ours.region_mask], atol=1e-5)
            assert not {id(tensor) for tensor in baseline.network.parameters()} & set(map(id, backbone.parameters()))


def test_lxmert_is_also_measured_against_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    names = [baseline.name for baseline in load_baselines(BASELINES, network("lxmert", tmp_path), "lxmert")]
    assert names == ["the paper's way, fp32", "transformers' LxmertModel, fp32"]


@pytest.mark.parametrize("name", ["adam", "bert-adam"])
def test_optimisers_that_go_tensor_by_tensor_update_as_ours_do(name: str, written_out: Any) -> None:
    config = make_options("optimizer", name=name)  # type: ignore[arg-type]
    start = [torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(0, 1, 5)]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    build = {"adam": written_out.adam, "bert-adam": written_out.BertAdam}[name]
    optimizers = make_optimizer(config, [(str(i), each) for i, each in enumerate(ours)]), build(theirs, config)
    for step in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.sin(torch.arange(one.numel(), dtype=torch.float32) + step).view_as(one) / 10
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            set_learning_rate(optimizer, 1e-2)
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_network_without_memory_shares_nothing(tmp_path: Path) -> None:
    backbone = network("lxmert-s", tmp_path)
    model = TaskModel(backbone, {"match": nn.Sequential(backbone.matching_head())})
    bare = _without_memory(model)
    assert {tensor.device.type for tensor in [*bare.parameters(), *bare.buffers()]} == {"meta"}
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"cpu"}
    assert len(list(bare.parameters())) == len(list(model.parameters())), "a head that is shared stays shared"


def test_an_experiment_is_measured_without_its_files(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.environ.get("VLRUN_CACHE"):
        monkeypatch.setenv("VLRUN_CACHE", str(tmp_path_factory.mktemp("cache")))
    small = ["backbone.size=tiny", "backbone.num_regions=5", "backbone.region_feature_size=200"]
    asked = ["--steps", "1", "--batch", "3", "--only", "step,task", "--against", str(BASELINES)]
    record = tmp_path / "bench.json"
    experiment = str(ROOT / "experiments" / "rosita_itr_flickr.yaml")
    assert main(["bench", experiment, "--demo", *small, *asked, "--json", str(record)]) == 0
    written = json.loads(record.read_text())
    assert written["experiment"]["data"] == "demo"
    rows = {(row["part"], row["what"]): row for row in written["rows"]}
    hidden, inner, layers, regions, width = 128, 512, 2, 5, 200
    operations = rows["step", "operations"]["value"] * 1e9
    assert rows["step", "examples"]["ratios"]["the paper's way, fp32"] > 0
    assert rows["retrieval", "pairs"]["ratios"]["plain loop, fp32"] > 0
    assert rows["step", "the whole training"]["note"].startswith("145,000 examples, 15 epochs")
    possible = [counted(3 * 3, tokens + regions, regions, hidden, inner, layers, width) for tokens in range(3, 31)]
    assert min(abs(operations - value) for value in possible) < 1


def counted(pairs: int, positions: int, regions: int, hidden: int, inner: int, layers: int, width: int) -> float:
    """Operations of a step of ROSITA with its matching head: each product once forward and twice backward.

    The last layer computes [CLS] alone, which looks at all positions.
    """
    layer = positions * (4 * hidden**2 + 2 * hidden * inner) + 2 * positions**2 * hidden
    last = 2 * positions * hidden**2 + 2 * hidden**2 + 2 * hidden * inner + 2 * positions * hidden
    seen = regions * (width + 5) * hidden  # features and boxes need no gradient
    return float(pairs * (6 * ((layers - 1) * layer + last + hidden**2 + 2 * hidden) + 4 * seen))
