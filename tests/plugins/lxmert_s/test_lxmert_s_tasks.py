"""VQA, GQA and NLVR2 on LXMERT-S: logits, losses, gradients, three optimiser steps (golden/lxmert_s/*.npz).

Everything on the way is ours: the pair encoder reads the sentences, the importer the weights, and the core has head,
optimiser and schedule. The losses are written out, because their tasks are other plugins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optimising import make_optimizer, make_options, make_schedule
from torch import Tensor, nn

from vlrun import Encoding, Pair, RegionBatch
from vlrun.blocks.heads import PooledClassifier
from vlrun.engine.optimisation import clip_gradients, set_learning_rate

pytestmark = pytest.mark.golden

LAYERS = {"dense0": "0", "layer_norm": "2", "dense1": "3"}

tasks = pytest.mark.parametrize("task", ["vqa", "gqa", "nlvr2"])


class Proof:
    """Backbone and head with the vectors' parameters."""

    def __init__(self, golden: Any, task: str) -> None:
        self.golden = golden
        self.task = task
        self.steps = range(len(golden.vectors["train/loss"]))
        self.text_length = golden.vectors["in/step0/input_ids"].shape[1]
        _, *images, _, _ = golden.vectors["in/step0/feats"].shape
        self.images = images[0] if images else 1
        head = "nlvr2_head" if task == "nlvr2" else "answer_head"
        state = {name.removeprefix(f"{head}."): tensor for name, tensor in golden.heads.items()}
        self.head = PooledClassifier(golden.network.hidden_size, len(state["dense1.bias"]), self.images)
        self.head.load_state_dict(state)

    def encoding(self, step: int) -> Encoding:
        sentences = [str(sentence) for sentence in self.golden.vectors[f"in/step{step}/sent"]]
        features, boxes = (self.golden.vectors[f"in/step{step}/{name}"] for name in ("feats", "boxes"))
        num_regions, width = features.shape[-2:]
        features, boxes = features.reshape(-1, num_regions, width), boxes.reshape(-1, num_regions, 4)
        num_pairs = len(features)
        pairs = [Pair(sentence, f"image{n}") for n, sentence in enumerate(np.repeat(sentences, self.images))]
        regions = RegionBatch(
            tuple(pair.image_id for pair in pairs),
            features,
            boxes,  # shares of the image already, so let it be 1 x 1
            np.ones((num_pairs, num_regions), np.bool_),
            np.ones((num_pairs, 2), np.float32),
        )
        return self.golden.network.pair_encoder(self.text_length)(pairs, regions)

    def logits(self, step: int) -> Tensor:
        return self.head(self.golden.network(self.encoding(step)))

    def loss(self, logits: Tensor, step: int) -> Tensor:
        if self.task == "nlvr2":
            return F.cross_entropy(logits, self.golden.tensor(f"in/step{step}/label"))
        target = self.golden.tensor(f"in/step{step}/target")
        if self.task == "vqa":
            return binary_loss(logits, target)
        return multi_class_loss(logits, target)

    def parameters(self) -> dict[str, nn.Parameter]:
        """By the authors' names."""
        named = {f"{self.golden.prefix}{name}": p for name, p in self.golden.network.named_parameters()}
        for name, parameter in self.head.named_parameters():
            layer, kind = name.split(".")
            named[f"logit_fc.{LAYERS[layer]}.{kind}"] = parameter
        return named

    def theirs(self, folder: str, name: str) -> np.ndarray[Any, Any]:
        if name.startswith("logit_fc."):
            return self.golden.vectors[f"{folder}/{name}"]
        return self.golden.array(folder, name.removeprefix(self.golden.prefix))


def binary_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target) * logits.shape[1]


def multi_class_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target.argmax(dim=1)) * logits.shape[1]


@pytest.fixture
def prove(golden_network: Callable[[str], Any]) -> Callable[[str], Proof]:
    return lambda task: Proof(golden_network(task), task)


@tasks
def test_sentences_become_the_ids_and_positions_of_the_original(prove: Any, task: str) -> None:
    proof = prove(task)
    for step in proof.steps:
        encoding = proof.encoding(step)

        ours = {"input_ids": encoding.token_ids, "attention_mask": encoding.text_mask}
        ours["token_position"] = encoding.position_ids
        missing = proof.text_length - encoding.token_ids.shape[1]
        for name, tensor in ours.items():
            theirs = proof.golden.vectors[f"in/step{step}/{name}"]
            assert F.pad(tensor.long(), (0, missing)).tolist() == theirs.tolist(), (step, name)


@tasks
def test_logits_equal_the_original(prove: Any, task: str) -> None:
    proof = prove(task)
    for step in proof.steps:
        theirs = proof.golden.tensor(f"out/step{step}/logit_init")

        torch.testing.assert_close(proof.logits(step), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("task", ["vqa", "gqa"])
def test_both_answer_losses_equal_the_original(prove: Any, task: str) -> None:
    proof = prove(task)
    logits, target = proof.logits(0), proof.golden.tensor("in/step0/target")

    losses = {"bce_loss": binary_loss(logits, target).item(), "mce_loss": multi_class_loss(logits, target).item()}

    assert losses == pytest.approx(
        {name: float(proof.golden.vectors[f"out/step0/{name}"]) for name in losses}, rel=1e-5
    )


@tasks
def test_gradients_equal_the_original(prove: Any, task: str) -> None:
    proof = prove(task)

    proof.loss(proof.logits(0), 0).backward()

    differences = {}
    for name, parameter in proof.parameters().items():
        theirs = proof.theirs("grad_step0", name)
        differences[name] = float(np.max(np.abs(parameter.grad.numpy() - theirs) / (1 + np.abs(theirs))))
    assert len(differences) == sum(name.startswith("grad_step0/") for name in proof.golden.vectors)
    assert max(differences.values()) <= 1e-4, differences


@tasks
def test_three_optimiser_steps_equal_the_original(prove: Any, task: str) -> None:
    proof = prove(task)
    setting = {name: proof.golden.vectors[f"train/{name}"].item() for name in ("lr_peak", "t_total", "warmup")}
    optimizer = make_optimizer(make_options("optimizer", name="bert-adam"), proof.parameters().items())
    total = setting["t_total"]
    schedule = make_options("schedule", name="warmup-linear", warmup_epochs=setting["warmup"] * total)
    rate = make_schedule(schedule, setting["lr_peak"], steps_per_epoch=1, epochs=total)
    trace: dict[str, list[float]] = {"lr_used": [], "loss": [], "grad_norm_before_clip": []}

    for step in proof.steps:
        optimizer.zero_grad()
        loss = proof.loss(proof.logits(step), step)
        loss.backward()
        norm = clip_gradients(proof.parameters().values(), proof.golden.vectors["train/clip_max_norm"].item())
        set_learning_rate(optimizer, rate(step))
        optimizer.step()
        for name, value in (("lr_used", rate(step)), ("loss", loss.item()), ("grad_norm_before_clip", norm.item())):
            trace[name].append(value)

    assert trace == {
        name: pytest.approx(list(proof.golden.vectors[f"train/{name}"]), rel=1e-4, abs=1e-12) for name in trace
    }
    trained = {
        name: float(np.abs(parameter.detach().numpy() - proof.theirs("after3", name)).max())
        for name, parameter in proof.parameters().items()
    }
    noise = {name for name in trained if name.endswith(".key.bias")}  # the softmax leaves their gradient at rounding
    assert max(trained[name] for name in set(trained) - noise) <= 1e-4, trained
    assert max(trained[name] for name in noise) <= 2e-3, trained
    torch.testing.assert_close(proof.logits(0), proof.golden.tensor("out/step0/logit_after3"), rtol=0, atol=1e-3)
