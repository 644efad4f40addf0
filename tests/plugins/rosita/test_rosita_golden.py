"""The network, its gradients and three optimiser steps equal the authors' code (golden/rosita/{vqa,rec,itr}.npz).

Heads and losses are written out here, because their tasks are other plugins. Tolerances: the README of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optimising import make_optimizer, make_options, make_schedule
from safetensors.torch import save_file
from torch import Tensor, nn

from vlrun import BackboneOutput, Encoding
from vlrun.blocks.heads import PooledClassifier
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.weights import HeadSlot, load_weights
from vlrun_rosita.model import Rosita

pytestmark = pytest.mark.golden

Vectors = Mapping[str, Any]
DOUBLE, SINGLE = torch.float64, torch.float32
OUTPUT_TOLERANCE = {DOUBLE: 1e-9, SINGLE: 2e-5}
LOSS_TOLERANCE = {DOUBLE: 1e-9, SINGLE: 1e-5}
GRADIENT_TOLERANCE = {DOUBLE: 1e-9, SINGLE: 1e-4}
TRAINED_TOLERANCE = {DOUBLE: 1e-8, SINGLE: 1e-4}
# A softmax follows these biases, so their gradient is zero and float32 trains them on rounding noise.
NOISE = (".mhatt.dense_k.bias", "mm_refs_head.dense_rank.bias")

dtypes = pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["double", "single"])
tasks = pytest.mark.parametrize("task", ["vqa", "rec", "itr"])


class GroundingHead(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.dense_rank = nn.Linear(hidden_size, 1)
        self.dense_reg = nn.Linear(hidden_size, 4)

    def forward(self, output: BackboneOutput) -> tuple[Tensor, Tensor]:
        hidden = self.layer_norm(F.gelu(self.dense(output.regions)))
        return self.dense_rank(hidden).squeeze(-1), self.dense_reg(hidden)


def answer_losses(logits: Tensor, vectors: Vectors, valid: Tensor | None = None) -> dict[str, Tensor]:
    valid = tensor(vectors, "label/valid", logits.dtype) if valid is None else valid
    divergence = F.kl_div(logits.log_softmax(-1), tensor(vectors, "label/kld", logits.dtype), reduction="none")
    entropy = F.binary_cross_entropy_with_logits(logits, tensor(vectors, "label/bce", logits.dtype), reduction="none")
    return {
        name: (element.mean(-1) * valid).sum() / valid.sum().clamp(min=1)
        for name, element in (("kld", divergence), ("bce", entropy))
    }


def grounding_losses(scores: Tensor, deltas: Tensor, vectors: Vectors, switch: float = 1.0) -> dict[str, Tensor]:
    label = {name: tensor(vectors, f"label/{name}", scores.dtype) for name in names_under(vectors, "label")}
    rank_weight = label["rank_weight"] * label["rank_valid"][:, None] * switch
    box_weight = label["reg_weight"] * label["reg_valid"][:, None] * switch
    divergence = F.kl_div(scores.log_softmax(-1), label["rank_label"], reduction="none")
    error = F.smooth_l1_loss(deltas, label["reg_label"], reduction="none").mean(-1)
    rank = (divergence * rank_weight).sum() / rank_weight.gt(0).sum().clamp(min=1)
    box = 0.5 * (error * box_weight).sum() / box_weight.gt(0).sum().clamp(min=1)
    return {"rank": rank, "reg_weighted": box, "total": rank + box}


def matching_losses(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    match = torch.ones(len(logits["pred_pos"]), dtype=torch.int64)
    positive = F.cross_entropy(logits["pred_pos"], match)
    negative = sum(F.cross_entropy(logits[name], 1 - match) for name in ("pred_neg_text", "pred_neg_img"))
    return {"total": 2 * positive + negative}


@dataclass
class Proof:
    """A backbone and a head filled with the vectors' parameters, and what the task computes with them.

    ``run`` returns outputs and losses by the names that the vectors use; ``trained`` is the loss of the gradients.
    """

    vectors: Vectors
    backbone: Rosita
    heads: dict[str, nn.Module]
    run: Callable[[], tuple[dict[str, Tensor], dict[str, Tensor]]]
    trained: str
    gradients: str

    def named_parameters(self) -> dict[str, nn.Parameter]:
        parameters = dict(self.backbone.named_parameters())
        for name, head in self.heads.items():
            parameters.update({f"{name}.{key}": parameter for key, parameter in head.named_parameters()})
        return parameters

    def backward(self, name: str) -> Tensor:
        """Leaves the gradients of that loss in the parameters."""
        for parameter in self.named_parameters().values():
            parameter.grad = None
        loss = self.run()[1][name]
        loss.backward()
        return loss.detach()

    def gradient(self, name: str) -> Tensor:
        parameter = self.named_parameters()[name]  # the original gives unused ones a zero gradient, we give them none
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.fixture
def prove(golden: Path, make_rosita: Callable[..., Rosita], tmp_path: Path) -> Callable[[str, torch.dtype], Proof]:
    def make(task: str, dtype: torch.dtype) -> Proof:
        vectors = dict(np.load(golden / "rosita" / f"{task}.npz"))
        size = {name: int(vectors[f"cfg/{name}"]) for name in names_under(vectors, "cfg")}
        backbone = make_rosita(
            size["vocab"],
            hidden_size=size["hsize"],
            num_layers=size["layers"],
            num_heads=size["heads"],
            feed_forward_size=size["hff"],
            max_positions=size["pos"],
            region_feature_size=size["imgfeat"],
            num_regions=size["regions"],
            dropout=0.0,
        )
        proof = {"vqa": vqa_proof, "rec": rec_proof, "itr": itr_proof}[task](vectors, backbone, dtype)
        state = {name: torch.from_numpy(vectors[f"state/{name}"]) for name in names_under(vectors, "state")}
        if task != "itr":
            del backbone.mm_itm_head  # nor has the authors' network here, and all of its parameters are compared
        save_file(state, tmp_path / "state.safetensors")
        slots = [HeadSlot(name, head) for name, head in proof.heads.items()]
        report = load_weights(backbone, tmp_path / "state.safetensors", heads=slots)
        assert set(report.matched) == set(state)
        assert not report.missing
        for module in (backbone, *proof.heads.values()):
            module.to(dtype)
        return proof

    return make


def vqa_proof(vectors: Vectors, backbone: Rosita, dtype: torch.dtype) -> Proof:
    head = PooledClassifier(backbone.hidden_size, int(vectors["cfg/ans"]))

    def run() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        hidden = backbone(encoding(vectors, "in", dtype))
        logits = head(hidden)
        return {**hidden_states(hidden), "pred_qa": logits}, answer_losses(logits, vectors)

    return Proof(vectors, backbone, {"mm_qa_head": head}, run, "kld", "grad_kld")


def rec_proof(vectors: Vectors, backbone: Rosita, dtype: torch.dtype) -> Proof:
    head = GroundingHead(backbone.hidden_size)

    def run() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        hidden = backbone(encoding(vectors, "in", dtype))
        scores, deltas = head(hidden)
        outputs = {**hidden_states(hidden), "pred_rank": scores, "pred_reg": deltas}
        return outputs, grounding_losses(scores, deltas, vectors)

    return Proof(vectors, backbone, {"mm_refs_head": head}, run, "total", "grad")


def itr_proof(vectors: Vectors, backbone: Rosita, dtype: torch.dtype) -> Proof:
    head = backbone.matching_head()
    text = {"token_ids", "text_mask"}

    def run() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        positive, donor = encoding(vectors, "pos", dtype), encoding(vectors, "neg", dtype)
        other_text = replace(positive, **{name: getattr(donor, name) for name in text})
        other_image = replace(donor, **{name: getattr(positive, name) for name in text})
        hidden = backbone(positive)
        logits = {
            "pred_pos": head(hidden.pooled),
            "pred_neg_text": head(backbone(other_text).pooled),
            "pred_neg_img": head(backbone(other_image).pooled),
        }
        scores = {"score_pos": logits["pred_pos"].softmax(-1)[:, 1]}
        return {**hidden_states(hidden), **logits, **scores}, matching_losses(logits)

    return Proof(vectors, backbone, {}, run, "total", "grad")


def tensor(vectors: Vectors, name: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(vectors[name]).to(dtype)


def names_under(vectors: Vectors, folder: str) -> list[str]:
    return [name.removeprefix(f"{folder}/") for name in vectors if name.startswith(f"{folder}/")]


def encoding(vectors: Vectors, folder: str, dtype: torch.dtype) -> Encoding:
    return Encoding(
        token_ids=tensor(vectors, f"{folder}/text_ids", torch.int64),
        text_mask=tensor(vectors, f"{folder}/text_mask", torch.bool),
        region_features=tensor(vectors, f"{folder}/imgfeat", dtype),
        boxes=tensor(vectors, f"{folder}/bbox", dtype),
        region_mask=tensor(vectors, f"{folder}/imgfeat_mask", torch.bool),
    )


def hidden_states(hidden: BackboneOutput) -> dict[str, Tensor]:
    return {"pooled": hidden.pooled, "text": hidden.text, "imgfeat": hidden.regions}


def largest_difference(ours: Tensor, theirs: Any) -> float:
    return float((ours.detach().double() - torch.from_numpy(np.asarray(theirs)).double()).abs().max())


@tasks
@dtypes
def test_outputs_equal_the_original(prove: Any, task: str, dtype: torch.dtype) -> None:
    proof = prove(task, dtype)

    outputs, _ = proof.run()

    differences = {name: largest_difference(outputs[name], proof.vectors[f"out/{name}"]) for name in outputs}
    assert set(outputs) == set(names_under(proof.vectors, "out"))
    assert max(differences.values()) <= OUTPUT_TOLERANCE[dtype], differences


@dtypes
def test_every_block_equals_the_original(prove: Any, dtype: torch.dtype) -> None:
    proof = prove("vqa", dtype)
    backbone = proof.backbone
    blocks = {"text_embeddings": backbone.text_embeddings, "visual_embeddings": backbone.visual_embeddings}
    blocks.update({f"layer{index}": layer for index, layer in enumerate(backbone.backbone.layers)})
    taps: dict[str, Tensor] = {}
    for name, block in blocks.items():
        block.register_forward_hook(lambda module, inputs, output, name=name: taps.update({name: output}))

    proof.run()

    differences = {name: largest_difference(taps[name], proof.vectors[f"tap/{name}"]) for name in taps}
    assert set(taps) == set(names_under(proof.vectors, "tap"))
    assert max(differences.values()) <= OUTPUT_TOLERANCE[dtype], differences


@tasks
@dtypes
def test_losses_equal_the_original(prove: Any, task: str, dtype: torch.dtype) -> None:
    proof = prove(task, dtype)

    _, losses = proof.run()

    ours = {name: loss.item() for name, loss in losses.items()}
    theirs = {name: float(proof.vectors[f"loss/{name}"]) for name in losses}
    assert ours == pytest.approx(theirs, rel=LOSS_TOLERANCE[dtype])


@pytest.mark.parametrize("valid", [0.0, 1.0], ids=["invalid", "valid"])
def test_answer_losses_of_all_valid_and_no_valid_examples_equal_the_original(prove: Any, valid: float) -> None:
    proof = prove("vqa", DOUBLE)
    logits = proof.run()[0]["pred_qa"]

    losses = answer_losses(logits, proof.vectors, torch.full((len(logits),), valid, dtype=DOUBLE))

    suffix = "all_valid" if valid else "all_invalid"
    theirs = {name: float(proof.vectors[f"loss/{name}_{suffix}"]) for name in losses}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(theirs, rel=1e-9)


def test_grounding_loss_of_no_valid_example_is_zero(prove: Any) -> None:
    proof = prove("rec", DOUBLE)
    outputs, _ = proof.run()

    losses = grounding_losses(outputs["pred_rank"], outputs["pred_reg"], proof.vectors, switch=0.0)

    assert losses["total"].item() == float(proof.vectors["loss/total_none_valid"])


@tasks
@dtypes
def test_gradients_equal_the_original(prove: Any, task: str, dtype: torch.dtype) -> None:
    proof = prove(task, dtype)

    proof.backward(proof.trained)

    theirs = {name: proof.vectors[f"{proof.gradients}/{name}"] for name in names_under(proof.vectors, "state")}
    differences = {name: largest_difference(proof.gradient(name), theirs[name]) for name in theirs}
    largest = max(float(np.abs(gradient).max()) for gradient in theirs.values())
    tolerance = GRADIENT_TOLERANCE[dtype] * (largest if dtype is SINGLE else 1.0)
    assert max(differences.values()) <= tolerance, differences


def test_gradients_of_the_binary_answer_loss_equal_the_original(prove: Any) -> None:
    proof = prove("vqa", DOUBLE)

    proof.backward("bce")

    theirs = {name: proof.vectors[f"grad_bce/{name}"] for name in names_under(proof.vectors, "grad_bce")}
    differences = {name: largest_difference(proof.gradient(name), theirs[name]) for name in theirs}
    largest = max(float(np.abs(gradient).max()) for gradient in theirs.values())
    assert max(differences.values()) <= 1e-6 * largest, differences  # these were stored in float32


@tasks
@dtypes
def test_three_optimiser_steps_equal_the_original(prove: Any, task: str, dtype: torch.dtype) -> None:
    proof = prove(task, dtype)
    option = {name: proof.vectors[f"opt/{name}"].item() for name in names_under(proof.vectors, "opt")}
    betas = (option["beta1"], option["beta2"])
    adam = make_options("optimizer", name="adam", betas=betas, eps=option["eps"], weight_decay=option["weight_decay"])
    staircase = make_options("schedule", name="warmup-staircase", warmup_epochs=option["warmup_epochs"])
    optimizer = make_optimizer(adam, proof.named_parameters().items())
    rate = make_schedule(staircase, option["lr_base"], option["epoch_steps"], epochs=len(proof.vectors["trace/lr"]))
    trace: dict[str, list[float]] = {"lr": [], "loss": [], "grad_norm_before_clip": []}

    for step in range(len(proof.vectors["trace/lr"])):
        loss = proof.backward(proof.trained)
        norm = clip_gradients(proof.named_parameters().values(), option["clip"])
        set_learning_rate(optimizer, rate(step))
        trace["lr"].append(rate(step))
        trace["loss"].append(loss.item())
        trace["grad_norm_before_clip"].append(norm.item())
        optimizer.step()

    assert trace["lr"] == pytest.approx(list(proof.vectors["trace/lr"]), rel=1e-12)
    assert trace["loss"] == pytest.approx(list(proof.vectors["trace/loss"]), rel=1e-9 if dtype is DOUBLE else 1e-4)
    norms = list(proof.vectors["trace/grad_norm_before_clip"])
    assert trace["grad_norm_before_clip"] == pytest.approx(norms, rel=1e-8 if dtype is DOUBLE else 1e-3)
    trained = {
        name: largest_difference(parameter, proof.vectors[f"after3/{name}"])
        for name, parameter in proof.named_parameters().items()
        if dtype is DOUBLE or not name.endswith(NOISE)
    }
    assert max(trained.values()) <= TRAINED_TOLERANCE[dtype], trained
