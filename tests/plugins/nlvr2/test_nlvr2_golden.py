"""Logits, losses, gradients, training steps and predictions: those of LXMERT-S's code (golden/lxmert_s/nlvr2.npz)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimising import make_optimizer, make_options, make_schedule
from torch import nn

from vlrun import Batch, Encoding, Example, Pair, RegionBatch
from vlrun.blocks.wordpiece import WordPiece
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun_nlvr2.config import Nlvr2AccuracyConfig
from vlrun_nlvr2.dataset import Statement
from vlrun_nlvr2.metric import Nlvr2Accuracy

pytestmark = pytest.mark.golden

Vectors = Mapping[str, Any]


@pytest.fixture(scope="module")
def nlvr2(golden: Path) -> Vectors:
    path = golden / "lxmert_s/nlvr2.npz"
    if not path.is_file():
        pytest.skip(f"no golden vectors at {path}")
    return dict(np.load(path))


def steps_of(nlvr2: Vectors) -> range:
    return range(len(nlvr2["train/loss"]))


def targets_of(nlvr2: Vectors, step: int) -> dict[str, torch.Tensor]:
    labels = torch.from_numpy(nlvr2[f"in/step{step}/label"])
    return {"labels": labels, "known": torch.ones(len(labels))}


def mean_loss(task: Any, logits: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """As the core takes it: the sum over its count."""
    loss: torch.Tensor = task.loss(logits, targets)["truth"] / task.loss_counts(targets)["truth"]
    return loss


def test_the_loss_of_the_authors_logits(nlvr2: Vectors, task: Any) -> None:
    """Up to the first step whose rate is not 0, whose loss is still that of the initial parameters."""
    for step in range(1 + int(np.flatnonzero(nlvr2["train/lr_used"])[0])):
        logits = torch.from_numpy(nlvr2[f"out/step{step}/logit_init"])
        loss = mean_loss(task, logits, targets_of(nlvr2, step))
        assert loss.item() == pytest.approx(nlvr2["train/loss"][step], abs=1e-6)


def test_the_authors_logits_give_their_predictions_and_score(nlvr2: Vectors, task: Any, make_dataset: Any) -> None:
    steps = steps_of(nlvr2)
    logits = torch.from_numpy(np.concatenate([nlvr2[f"out/step{step}/logit_init"] for step in steps]))
    labels = np.concatenate([nlvr2[f"in/step{step}/label"] for step in steps])
    nothing = torch.zeros(0)
    batch = Batch(tuple(map(str, range(len(logits)))), Encoding(nothing, nothing, nothing, nothing, nothing), {})
    predictions = task.predict(logits, batch)
    assert [int(prediction.fields["label"]) for prediction in predictions] == nlvr2["out/predict_init"].tolist()
    metric = Nlvr2Accuracy(Nlvr2AccuracyConfig(name="nlvr2-accuracy"))
    accuracy, _ = metric(predictions, make_dataset([bool(label) for label in labels]))
    assert accuracy.value == pytest.approx(100 * nlvr2["out/predict_init_score"], abs=1e-9)


# --- with the backbone ---


class _Network(nn.Module):
    def __init__(self, backbone: Any, head: nn.Module, cls_id: int) -> None:
        super().__init__()
        self.cls_id = cls_id
        self.backbone = backbone
        self.head = head

    def forward(self, encoding: Encoding) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.backbone(encoding))
        return logits


@pytest.fixture
def network(nlvr2: Vectors, golden: Path, task: Any) -> _Network:
    """LXMERT-S with the authors' initial parameters, brought in as a user would import them."""
    config = pytest.importorskip("vlrun_lxmert_s.config")
    model = pytest.importorskip("vlrun_lxmert_s.model")
    checkpoint = pytest.importorskip("vlrun_lxmert_s.checkpoint")
    vocabulary = golden / "lxmert_s/tiny_vocab.txt"
    backbone = model.LxmertS.from_config(
        config.LxmertSConfig(
            name="lxmert-s",
            hidden_size=nlvr2["config/hidden_size"].item(),
            feed_forward_size=nlvr2["config/intermediate_size"].item(),
            num_heads=nlvr2["config/num_attention_heads"].item(),
            num_language_layers=nlvr2["config/l_layers"].item(),
            num_cross_layers=nlvr2["config/x_layers"].item(),
            num_object_layers=nlvr2["config/r_layers"].item(),
            max_positions=nlvr2["config/max_position_embeddings"].item(),
            region_feature_size=nlvr2["config/visual_feat_dim"].item(),
            num_regions=nlvr2["in/step0/feats"].shape[-2],
            dropout=0.0,
            vocabulary=vocabulary,
        )
    )
    del backbone.seq_relationship  # nor has the authors' network here, and all of its parameters are compared
    network = _Network(backbone, task.build_head(backbone), WordPiece(vocabulary).cls_id)
    network.load_state_dict(named(nlvr2, "state/", checkpoint, network.cls_id, task.imported_head))
    return network


def named(nlvr2: Vectors, prefix: str, checkpoint: Any, cls_id: int, head: str) -> dict[str, torch.Tensor]:
    """The authors' tensors under the names of our network, as the importer and the core bring them there."""
    state = {name.removeprefix(prefix): torch.from_numpy(nlvr2[name]) for name in nlvr2 if name.startswith(prefix)}
    assert state
    return {
        f"head.{name.removeprefix(f'{head}.')}" if name.startswith(f"{head}.") else f"backbone.{name}": tensor
        for name, tensor in checkpoint.translate_lxmert_s(state, cls_id=cls_id).items()
    }


def batch_of(nlvr2: Vectors, step: int, task: Any, backbone: Any) -> Batch:
    """The statements of a step through our pairs, pair encoder and collation."""
    features, boxes = nlvr2[f"in/step{step}/feats"], nlvr2[f"in/step{step}/boxes"]
    count = len(features)
    examples = [
        Example(str(row), str(text), (f"{row}-img0", f"{row}-img1"), Statement(bool(label), str(row)))
        for row, (text, label) in enumerate(
            zip(nlvr2[f"in/step{step}/sent"], nlvr2[f"in/step{step}/label"], strict=True)
        )
    ]
    pairs: list[Pair] = [pair for example in examples for pair in task.pairs(example, np.random.default_rng(0))]
    regions = RegionBatch(
        tuple(pair.image_id for pair in pairs),
        features.reshape(2 * count, *features.shape[2:]),
        boxes.reshape(2 * count, *boxes.shape[2:]),  # already in 0..1: of images of one pixel
        np.ones((2 * count, features.shape[2]), bool),
        np.ones((2 * count, 2), np.float32),
    )
    encoding = backbone.pair_encoder(nlvr2[f"in/step{step}/input_ids"].shape[1])(pairs, regions)
    return Batch(tuple(example.id for example in examples), encoding, task.collate(examples, regions, encoding))


def test_statements_are_encoded_and_judged_as_by_the_authors(nlvr2: Vectors, network: _Network, task: Any) -> None:
    for step in steps_of(nlvr2):
        batch = batch_of(nlvr2, step, task, network.backbone)
        length = batch.encoding.token_ids.shape[1]
        np.testing.assert_array_equal(batch.encoding.token_ids, nlvr2[f"in/step{step}/input_ids"][:, :length])
        assert not nlvr2[f"in/step{step}/attention_mask"][:, length:].any()
        np.testing.assert_array_equal(batch.targets["labels"], nlvr2[f"in/step{step}/label"])
        logits = network(batch.encoding)
        np.testing.assert_allclose(logits.detach(), nlvr2[f"out/step{step}/logit_init"], atol=2e-5, rtol=0)


def test_three_training_steps_are_those_of_the_authors(nlvr2: Vectors, network: _Network, task: Any) -> None:
    """Loss, gradients, their norm, learning rates, and all parameters afterwards."""
    checkpoint = pytest.importorskip("vlrun_lxmert_s.checkpoint")
    total = int(nlvr2["train/t_total"])
    peak, warmup = float(nlvr2["train/lr_peak"]), float(nlvr2["train/warmup"])
    schedule = make_schedule(
        make_options("schedule", name="warmup-linear", warmup_epochs=warmup * total),
        peak,
        steps_per_epoch=1,
        epochs=total,
    )
    optimizer = make_optimizer(
        make_options("optimizer", name="bert-adam", weight_decay=0.01), network.named_parameters()
    )
    for step in steps_of(nlvr2):
        batch = batch_of(nlvr2, step, task, network.backbone)
        loss = mean_loss(task, network(batch.encoding), batch.targets)
        assert loss.item() == pytest.approx(nlvr2["train/loss"][step], abs=1e-5)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
            missing = {name: torch.zeros(()) for name, gradient in gradients.items() if gradient is None}
            compare(
                {**gradients, **missing}, named(nlvr2, "grad_step0/", checkpoint, network.cls_id, task.imported_head)
            )
        norm = clip_gradients(network.parameters(), float(nlvr2["train/clip_max_norm"]))
        assert norm.item() == pytest.approx(nlvr2["train/grad_norm_before_clip"][step], rel=1e-4)
        set_learning_rate(optimizer, schedule(step))
        assert schedule(step) == pytest.approx(nlvr2["train/lr_used"][step], rel=1e-9)
        optimizer.step()
    # The true gradient of a key's bias is 0; Adam blows up the rounding noise that is left.
    after = named(nlvr2, "after3/", checkpoint, network.cls_id, task.imported_head)
    compare(dict(network.named_parameters()), after, noise=["key.bias"])
    logits = network(batch_of(nlvr2, 0, task, network.backbone).encoding)
    np.testing.assert_allclose(logits.detach(), nlvr2["out/step0/logit_after3"], atol=1e-4, rtol=0)


def compare(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], noise: Sequence[str] = ()) -> None:
    """Equal within 1e-4; names that end with one of ``noise`` within 2e-3."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        tolerance = 2e-3 if name.endswith(tuple(noise)) else 1e-4
        np.testing.assert_allclose(tensor.detach(), expected[name], atol=tolerance, rtol=1e-4, err_msg=name)
