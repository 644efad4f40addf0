"""Compiling, recomputing and keeping memory: a run trains the same, and its files stay as they are."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from torch import nn
from toy_runs import experiment, losses, ranks_run, weights

from vlrun import BackboneOutput, Encoding
from vlrun.engine import gradients
from vlrun.engine.gradients import SharedModel
from vlrun.engine.host_memory import keep_freed_memory
from vlrun.engine.ranks import Ranks
from vlrun.engine.recomputation import recompute_layers
from vlrun.errors import ConfigError
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import changed_options, run_experiment

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("option", ["train.compile=true", "train.compile=cuda-graphs"])
def test_a_compiled_run_trains_the_same_and_its_weights_keep_their_names(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    asked: list[Any] = []
    compile_for_real = torch.compile

    def traced(model: Any, **options: Any) -> Any:  # traces as the real one; generating C++ takes half a minute
        asked.append(options)
        return compile_for_real(model, backend="aot_eager")

    plain = run_experiment(experiment(world, plugins), plugins=plugins)
    monkeypatch.setattr(gradients.torch, "compile", traced)
    compiled = run_experiment(experiment(world, plugins, option), plugins=plugins)
    assert asked == [{"mode": "reduce-overhead" if "graphs" in option else None}]
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    assert list(weights(compiled)) == list(weights(plain))


def test_a_network_that_cannot_be_compiled_says_which_option_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def compiler(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> Any:
            raise BackendCompilerFailed("inductor", RuntimeError("no C++ compiler"), None)

        return call

    monkeypatch.setattr(gradients.torch, "compile", compiler)
    with pytest.raises(ConfigError, match=r"train\.compile: torch cannot compile .*no C\+\+ compiler.*leave it off"):
        SharedModel(nn.Linear(2, 2), ALONE, compiled=True)("task", torch.ones(1, 2))  # type: ignore[arg-type]


def test_a_backbone_without_a_stack_of_layers_cannot_recompute_them(world: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"train\.activation_checkpointing: .*micro_batches"):
        run_experiment(experiment(world, plugins, "train.activation_checkpointing=true"), plugins=plugins)


@pytest.fixture
def stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy backbone with a stack of layers."""
    made, forward = toy.ToyBackbone.__init__, toy.ToyBackbone.forward

    def with_layers(self: Any, config: Any) -> None:
        made(self, config)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Dropout(0.2)) for _ in range(2))

    def through_layers(self: Any, encoding: Encoding) -> BackboneOutput:
        output = forward(self, encoding)
        regions = output.regions
        for layer in self.layers:
            regions = layer(regions)
        return replace(output, regions=regions, pooled=output.pooled + regions.mean(1))

    monkeypatch.setattr(toy.ToyBackbone, "__init__", with_layers)
    monkeypatch.setattr(toy.ToyBackbone, "forward", through_layers)


@pytest.mark.usefixtures("stacked")
def test_layers_are_computed_again_under_all_that_a_run_offers(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several passes, bfloat16, two processes, and a network that is compiled."""
    again, short = "train.activation_checkpointing=true", ("train.epochs=1", "train.micro_batches=2")

    def both(run: Callable[..., Any], *options: str) -> list[Any]:
        return [run(*short, *options), run(*short, *options, again)]

    def alone(*options: str) -> list[float]:
        return losses(run_experiment(experiment(world, plugins, *options), plugins=plugins))

    plain, recomputed = both(alone)
    assert recomputed == plain
    assert len(plain) > 2
    half, half_recomputed = both(alone, "train.precision=bf16")
    assert half_recomputed == half != plain
    two, two_recomputed = both(lambda *options: losses(ranks_run(world, plugins, 2, *options)[0][0]))
    assert two_recomputed == two == pytest.approx(plain, rel=1e-6)  # the same weights; two parts of a loss are added
    compile_for_real = torch.compile
    monkeypatch.setattr(gradients.torch, "compile", lambda model, **_: compile_for_real(model, backend="aot_eager"))
    assert alone(*short, again, "train.compile=true") == pytest.approx(plain, rel=1e-5)


def test_a_layer_that_is_computed_again_keeps_its_input_alone() -> None:
    network = nn.Sequential(nn.ModuleList([nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8))]))
    layer, values = network[0][0], torch.randn(5, 8, requires_grad=True)

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            layer(values)
        return sum(sizes)

    before = kept()
    assert recompute_layers(network) == 1
    assert kept() < before / 4


def test_a_run_may_go_on_with_layers_that_are_computed_again() -> None:
    before = "train: {activation_checkpointing: false, micro_batches: 1}"
    assert not changed_options(before, before.replace("false", "true"))
    assert changed_options(before, before.replace("1", "2")), "dropout differs"


_STEPS = """
import gc, resource, torch
from MODULE import keep_freed_memory

def faults():
    for _ in range(5):  # the first ones get the memory
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        parts = [torch.ones(2**24) for _ in range(2)]  # 64 MiB, of which glibc never keeps any by itself
        del parts
        gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults() if keep_freed_memory() else "")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_memory_that_a_step_frees_is_not_cleared_again() -> None:
    """In a process of its own: what other tests have left on the heap decides whether glibc can keep any."""
    script = _STEPS.replace("MODULE", keep_freed_memory.__module__)
    kept = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    if not kept:
        pytest.skip("another C library than glibc")
    pages = 2 * 2**24 * torch.float32.itemsize // resource.getpagesize()
    assert int(kept) * 20 < pages
