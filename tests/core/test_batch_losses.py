"""Losses of a global batch, other networks and numbers beside the losses: the same for any number of processes."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
import training_world as toys
from safetensors.torch import load_file
from torch import Tensor, nn
from toy_runs import experiment, lines, losses, ranks_run, stop_after_step, weights

from vlrun.engine.global_batch import Share, batch_loss
from vlrun.engine.ranks import Ranks
from vlrun.errors import CheckpointError, ConfigError, StoppedOnRequest, UsageError
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.networks import load_network
from vlrun.runs.run import run_experiment
from vlrun.testing import check_task, make_regions, run_ranks

NO_DROPOUT = "backbone.dropout=0"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    return create_plugins([*core, EntryPoint("toy", "toy_world", "vlrun"), EntryPoint("t", "training_world", "vlrun")])


def of(task: str, *more: str) -> list[str]:
    return [f"tasks.0.name={task}", "tasks.0.label=match", *more]


def run(world: Path, plugins: Plugins, *overrides: str, runs_root: str = "runs", **options: Any) -> Path:
    return run_experiment(
        experiment(world, plugins, *overrides, runs_root=runs_root), plugins=plugins, **options
    ).folder


def scalars(folder: Path, name: str) -> list[float]:
    return [row["scalars"][name] for row in lines(folder, "step")]


def assert_same(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=1e-5, abs=1e-6)
    theirs = weights(other)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


# --- the gradient, against autograd ---


class Correlated(nn.Module):
    """Rows go through a layer; the loss of the batch also has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(1.5))


class Contrasting(toys.WholeToy):
    def batch_loss(self, rows: Any, step: Any) -> dict[str, Tensor]:
        logits = rows["rows"] @ rows["rows"].T * step.model.scale
        return {"contrast": (logits.logsumexp(1) - logits.diagonal()).mean(), "constant": torch.tensor(2.0)}


class Step:
    task = "toy"

    def __init__(self, model: nn.Module) -> None:
        self.model = model


INPUTS = torch.linspace(-1, 1, 33).view(11, 3).sin()
PASSES = {
    "in the order of the batch": [INPUTS[place::3] for place in range(3)],
    "one after the other": [INPUTS[:4], INPUTS[4:5], INPUTS[5:]],
}


def gradients_of_share(ranks: Ranks, passes: list[Tensor]) -> tuple[dict[str, Tensor], float]:
    model, task = Correlated(), Contrasting()
    mine = {number: passes[number] for number in range(3) if number * ranks.world_size // 3 == ranks.rank}
    shares = {number: Share(len(own), {"rows": model.layer(own).detach()}) for number, own in mine.items()}
    found = batch_loss(task, Step(model), ranks, shares, 3, 1, 1.0)
    for number, own in mine.items():
        pulled = found.pulled(number, {"rows": model.layer(own)}, is_first=number == min(mine))
        assert pulled is not None
        pulled.backward()
    if passes is PASSES["in the order of the batch"]:
        assert torch.allclose(found.rows["rows"], model.layer(INPUTS))
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return {name: ranks.sum_tensor(grad) for name, grad in grads.items()}, float(
        sum(ranks.sum_counts([float(value) for value in found.losses.values()]))
    )


@pytest.mark.parametrize("order", PASSES)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_gradients_of_all_passes_add_up_to_that_of_the_whole_batch(tmp_path: Path, world_size: int, order: str) -> None:
    model = Correlated()
    whole = Contrasting().batch_loss({"rows": model.layer(INPUTS)}, Step(model))
    total = torch.stack(list(whole.values())).sum()
    total.backward()

    def body(ranks: Ranks) -> Any:
        return gradients_of_share(ranks, PASSES[order])

    alone = Ranks(0, 1, torch.device("cpu"))
    for gradients, value in run_ranks(body, tmp_path, world_size) if world_size > 1 else [body(alone)]:
        assert value == pytest.approx(float(total.detach()), rel=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6)


# --- whole runs ---


@pytest.mark.parametrize(("world_size", "task"), [(2, "r-drop"), (2, "whole"), (3, "whole"), (3, "contrastive")])
def test_processes_train_like_one(world: Path, plugins: Plugins, world_size: int, task: str) -> None:
    options = of(task, NO_DROPOUT, "train.epochs=1")
    alone = run(world, plugins, *options)
    folder = ranks_run(world, plugins, world_size, *options)[0][0]
    assert_same(folder, alone)
    if task == "whole":  # what "contrastive" counts hangs on the last bit of near ties: see the test of two passes
        assert scalars(folder, "ones") == pytest.approx(scalars(alone, "ones"))


@pytest.mark.parametrize("task", ["contrastive", "whole"])
def test_a_batch_that_is_made_in_several_passes_has_the_loss_of_one(world: Path, plugins: Plugins, task: str) -> None:
    options = of(task, NO_DROPOUT, "train.epochs=1")
    whole = run(world, plugins, *options)
    assert_same(run(world, plugins, *options, "train.micro_batches=3"), whole)


def test_with_two_passes_one_process_and_two_are_alike_to_the_last_bit(world: Path, plugins: Plugins) -> None:
    options = of("contrastive", "train.micro_batches=2", "train.epochs=2")
    alone = run(world, plugins, *options)
    folder = ranks_run(world, plugins, 2, *options)[0][0]
    theirs = weights(folder)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(alone).items())
    assert {"heads.match.queue", "heads.match.log_scale"} < theirs.keys()
    assert scalars(alone, "told apart") == scalars(folder, "told apart")


def test_temperature_learns_queue_holds_the_newest_and_the_slow_copy_follows(world: Path, plugins: Plugins) -> None:
    folder = run(world, plugins, *of("contrastive", "train.keep_checkpoints=9", "train.checkpoint_every=1"))
    steps = sorted((folder / "checkpoints").glob("step_*"))
    kept = [load_file(step / "model.safetensors") for step in steps]
    scales = [float(tensors["heads.match.log_scale"]) for tensors in kept]
    assert len(set(scales)) == len(scales)
    queues = [tensors["heads.match.queue"] for tensors in kept]
    torch.testing.assert_close(queues[-1].norm(dim=1), torch.ones(7))
    assert not torch.isin(queues[-1], queues[-2]).all()
    copies = {"heads.match.project.weight": "heads.match.slow.copies.1.weight"}
    copies |= {name: name.replace("backbone.", "heads.match.slow.copies.0.") for name in kept[0] if "backbone." in name}
    for original, copy in copies.items():
        for step, (before, after) in enumerate(pairwise(kept), 2):
            moved = 0.75 * before[copy] + 0.25 * after[original]
            torch.testing.assert_close(after[copy], moved, msg=f"{original} at step {step}")


def test_a_run_with_a_queue_resumes_bit_for_bit(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(world, plugins, *of("contrastive"))
    with monkeypatch.context() as patch:
        stop_after_step(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run(world, plugins, *of("contrastive"))
    again = run(world, plugins, *of("contrastive"), continues=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(again).items())
    assert scalars(again, "told apart") == scalars(whole, "told apart")


def test_rows_that_are_not_equally_wide_are_refused_on_all_processes(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toys.WholeToy, "wide", True)
    with pytest.raises(AssertionError) as caught:  # 6 examples make passes of 2 and of 1
        ranks_run(world, plugins, 2, *of("whole", "train.micro_batches=4"))
    assert str(caught.value).count("PluginError: shared_rows: 'logits' has rows of 1 and 2 numbers") == 2


def test_a_loss_of_the_batch_that_is_no_number_names_the_examples_of_all(world: Path, plugins: Plugins) -> None:
    with pytest.raises(AssertionError, match=r"correlation = nan\. Examples: (train-\d+, ){5}train-\d+\."):
        ranks_run(world, plugins, 2, *of("whole", "backbone.poison=17", "train.log_every=100"))


def test_passes_that_are_made_twice_cannot_be_compiled(world: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"train\.compile: task 'match' has a loss of the global batch"):
        run(world, plugins, *of("contrastive", "train.compile=true", "train.micro_batches=2"))
    with pytest.raises(ConfigError, match=r"train\.compile: cuda-graphs, but task 'match' may run the network several"):
        run(world, plugins, *of("r-drop", "train.compile=cuda-graphs"))


def test_a_pass_that_fails_on_one_process_leaves_no_other_waiting(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = toys.WholeToy.training_outputs

    def short(*arguments: Any) -> Any:
        if torch.distributed.get_rank() == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return outputs(*arguments)

    monkeypatch.setattr(toys.WholeToy, "training_outputs", short)
    with pytest.raises(AssertionError) as caught:
        ranks_run(world, plugins, 2, *of("whole", "train.epochs=1"))
    explained = "ConfigError: train.batch_size 6: a step does not fit into the memory of the GPU"
    assert str(caught.value).count(f"vlrun.errors.{explained}") == 2


def test_r_drop_without_dropout_changes_nothing(world: Path, plugins: Plugins) -> None:
    plain = run(world, plugins, NO_DROPOUT)
    folder = run(world, plugins, *of("r-drop", NO_DROPOUT))
    assert losses(folder) == pytest.approx(losses(plain), rel=1e-5)
    with_dropout = lines(run(world, plugins, *of("r-drop", "train.epochs=1")), "step")
    assert all(row["losses"]["agreement"] > 1e-4 for row in with_dropout)


# --- distillation ---


def test_a_student_learns_from_another_run_with_any_number_of_processes(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlrun_distillation.task.load_network", partial(load_network, plugins=plugins))
    teacher = run(world, plugins, "train.learning_rate=1e-30", "train.epochs=1", runs_root="teachers")
    options = of("distilled", NO_DROPOUT, f"tasks.0.teacher={teacher}", "train.epochs=2")
    alone = run(world, plugins, *options)
    imitation = [row["losses"]["imitation"] for row in lines(alone, "step")]
    assert imitation[0] == pytest.approx(0, abs=1e-6), "the student starts as its teacher"
    assert imitation[-1] > 1e-4
    assert not [name for name in weights(alone) if "teacher" in name]
    assert_same(ranks_run(world, plugins, 2, *options)[0][0], alone)


def test_a_network_of_a_run_is_loaded_as_it_was(world: Path, plugins: Plugins) -> None:
    folder = run(world, plugins, "train.epochs=2", "train.keep_checkpoints=9")
    before = torch.get_rng_state()
    best, first = (
        load_network(folder, plugins=plugins),
        load_network(folder, str(sorted((folder / "checkpoints").glob("step_*"))[0]), plugins=plugins),
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert (best.task, best.vocabulary_hash, best.training) == ("match", "toy", False)
    assert first.source.endswith("step 3")
    name = "model.backbone.project.weight"
    kept = [dict(network.named_parameters())[name] for network in (best, first)]
    steps = [load_file(folder / "checkpoints" / each / "model.safetensors") for each in ("best", "step_00000003")]
    assert all(torch.equal(own, step["backbone.project.weight"]) for own, step in zip(kept, steps, strict=True))


def test_a_network_that_is_not_there_is_told(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        load_network(world, plugins=plugins)
    folder = run(world, plugins, "train.epochs=1")
    with pytest.raises(UsageError, match="name one of its tasks: match"):
        load_network(folder, task="vqa", plugins=plugins)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        load_network(folder, plugins=plugins)


def test_a_teacher_of_another_vocabulary_is_refused(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlrun_distillation.task.load_network", partial(load_network, plugins=plugins))
    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyBackbone, "vocabulary_hash", "other words")
        teacher = run(world, plugins, "train.epochs=1", runs_root="teachers")
        network = load_network(teacher, plugins=plugins)
    monkeypatch.setattr("vlrun_distillation.task.load_network", lambda path: network)
    expected = "its companion 'teacher' was trained with another vocabulary .other words. than that of backbone 'toy'"
    with pytest.raises(ConfigError, match=expected):
        run(world, plugins, *of("distilled", f"tasks.0.teacher={teacher}"))


# --- the kit ---


class Ordered(toys.WholeToy):
    def batch_loss(self, rows: Any, step: Any) -> dict[str, Tensor]:
        return {"last": rows["logits"][-1].square().sum()}


class Clashing(toys.ContrastiveToy):
    def batch_loss(self, rows: Any, step: Any) -> dict[str, Tensor]:
        return {"class": super().batch_loss(rows, step)["contrast"]}


class Reading(toys.ContrastiveToy):
    def batch_loss(self, rows: Any, step: Any) -> dict[str, Tensor]:
        losses = super().batch_loss(rows, step)
        step.report("read", float(losses["contrast"].detach()))
        return losses


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (Ordered, "loss 'last' of the global batch must not depend on the order of its items"),
        (Clashing, "loss and batch_loss must have other names"),
        (Reading, "must not read values of tensors"),
        (toys.ContrastiveToy, None),
        (toys.RDropToy, None),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_loss_of_the_batch(task: type, sentence: str | None) -> None:
    torch.manual_seed(1)
    examples = [toy.ToyDataset(toy.DatasetConfig.model_construct(), "train")[index] for index in range(4)]
    regions = make_regions([f"img{index}" for index in range(toy.NUM_IMAGES)], toy.WIDTH)
    backbone = toy.ToyBackbone(toy.ToyConfig(name="toy"))
    with nullcontext() if sentence is None else pytest.raises(AssertionError, match=sentence):
        check_task(task(), backbone, examples, regions)
