"""The losses of ROSITA's pre-training with the transport term, their gradients, and six steps of its training.

``golden/rosita/pretrain.npz`` and ``pretrain_data/run.npz``; tolerances: the READMEs of the vectors. The original's
transport is in float32 even where its network is in float64, as ours is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rosita_goldens import Goldens
from rosita_world import LOSSES, World
from torch import Tensor, nn

from vlrun import Encoding
from vlrun.blocks.heads import PooledClassifier
from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun.config.optimisation import AdamConfig, WarmupLinearConfig
from vlrun.engine.optimisers import bert_adam
from vlrun.engine.schedules import warmup_linear
from vlrun.interfaces.training import TrainingLength
from vlrun_pretraining.config import PretrainConfig, RositaPretrainingConfig
from vlrun_pretraining.head import PretrainingHead
from vlrun_pretraining.losses import LOSSES as OURS
from vlrun_pretraining.losses import loss_counts
from vlrun_rosita.checkpoint import translate
from vlrun_rosita.model import Rosita

pytestmark = pytest.mark.golden

NAMES = {"mlm": "words", "feat": "features", "obj": "classes", "attr": "attributes"}
WEIGHT = 0.1


class Network(nn.Module):
    """Backbone and head, with the parameters of some vectors."""

    def __init__(self, file: Mapping[str, Any], wordpiece: WordPiece, dtype: torch.dtype) -> None:
        super().__init__()
        size = {name.removeprefix("cfg/"): int(file[name]) for name in file if name.startswith("cfg/")}
        state = {name.removeprefix("state/"): file[name] for name in file if name.startswith("state/")}
        outputs = {name: len(state[f"imgfeat_head.dense_{name}.bias"]) for name in ("obj", "attr")}
        dataset = RositaPretrainingConfig(
            name="rosita-pretraining", annotations="a", features="f", train=["pt-coco"], evaluate=["pt-vg"]
        )
        config = PretrainConfig(
            name="pretrain",
            dataset=dataset,
            losses=LOSSES,
            num_classes=outputs["obj"],
            num_attributes=outputs["attr"],
        )
        self.backbone = Rosita(
            wordpiece,
            hidden_size=size["hsize"],
            num_layers=size["layers"],
            num_heads=size["heads"],
            feed_forward_size=size["hff"],
            max_positions=size["pos"],
            region_feature_size=size["imgfeat"],
            num_regions=size["regions"],
            dropout=0.0,
        )
        self.head = PretrainingHead(self.backbone, config, size["imgfeat"])
        self.answers = PooledClassifier(size["hsize"], len(state["mm_qa_head.dense1.bias"]))
        tensors = translated({name: torch.from_numpy(value) for name, value in state.items()})
        own = self.tensors()
        assert {*tensors} == {*own}, {*tensors} ^ {*own}
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
        self.to(dtype)

    def tensors(self) -> dict[str, nn.Parameter]:
        """All parameters by the names that imported weights have; of the tied table one."""
        named = {**self.head.named()}
        heads = {**{name: part.module for name, part in named.items()}, "answer_head": self.answers}
        found = dict(self.backbone.named_parameters())
        for name, module in heads.items():
            found |= {f"{name}.{own}": parameter for own, parameter in module.named_parameters()}
        return {name: parameter for name, parameter in found.items() if name != "word_head.decoder.weight"}

    def losses(self, encoding: Encoding, targets: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """Each loss as the core divides it, and what the backbone gave."""
        states = self.backbone(encoding)
        outputs, counts = self.head(states), loss_counts(targets)
        found = {name: OURS[name](outputs, targets) / counts[name].clamp(min=1) for name in LOSSES}
        found["transport"] = WEIGHT * found["transport"]
        return found, states


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    content: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        content.setdefault(module, {})[rest] = tensor
    return translate(content)


def words_of(size: int, path: Path) -> WordPiece:
    tokens = [*SPECIAL_TOKENS, *(f"[unused{number}]" for number in range(size))][:size]
    path.write_text("".join(f"{token}\n" for token in tokens))
    return WordPiece(path)


def targets_of(file: Mapping[str, Any]) -> dict[str, Tensor]:
    """Labels of the vectors as our task makes them."""
    label = {name.removeprefix("label/"): torch.from_numpy(file[name]) for name in file if name.startswith("label/")}
    words = label["text_outside_weight"] * label["text_mlm_weight"] * label["text_mlm_valid"][:, None] > 0
    regions = label["img_outside_weight"] * label["img_feat_weight"] * label["img_feat_valid"][:, None] > 0
    (word_rows, word_places), (rows, places) = (mask.nonzero(as_tuple=True) for mask in (words, regions))
    targets = {
        "matched": label["itm_label"] == 1,
        "word_rows": word_rows,
        "word_places": word_places,
        "word_labels": label["text_mlm_label_ids"][word_rows, word_places],
        "region_rows": rows,
        "region_places": places,
        "region_features": label["img_feat_label"][rows, places],
        "feature_count": torch.tensor(len(rows)),
        "class_rows": rows,
        "class_places": places,
    }
    for ours, theirs in (("class", "obj"), ("attribute", "attr")):
        weights = (label[f"img_{theirs}_weight"] * label[f"img_{theirs}_valid"][:, None])[rows, places]
        targets[f"{ours}_labels"] = label[f"img_{theirs}_label"][rows, places]
        targets[f"{ours}_weights"] = weights
        targets[f"{ours}_count"] = (weights > 0).sum()
    return targets


def encoding_of(file: Mapping[str, Any], dtype: torch.dtype) -> Encoding:
    names = ("text_ids", "text_mask", "imgfeat", "bbox", "imgfeat_mask")
    ids, mask, features, boxes, region_mask = (torch.from_numpy(file[f"in/{name}"]) for name in names)
    return Encoding(ids, mask.bool(), features.to(dtype), boxes.to(dtype), region_mask.bool())


def soft_answers(file: Mapping[str, Any], network: Network, states: Any) -> Tensor:
    """The loss of answers, which no experiment of ours has for ROSITA, for the gradients are those of all losses."""
    wanted = torch.from_numpy(file["label/qa_label"]).to(states.pooled.dtype)
    valid = torch.from_numpy(file["label/qa_valid"]).to(states.pooled.dtype)
    guessed = network.answers(states).log_softmax(dim=1)
    return (F.kl_div(guessed, wanted, reduction="none").mean(1) * valid).sum() / (valid > 0).sum()


@pytest.mark.parametrize(
    ("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["double", "single"]
)
def test_every_loss_is_that_of_the_original(golden: Path, tmp_path: Path, dtype: torch.dtype, relative: float) -> None:
    file = dict(np.load(golden / "rosita" / "pretrain.npz"))
    network = Network(file, words_of(int(file["cfg/vocab"]), tmp_path / "words.txt"), dtype)
    losses, states = network.losses(encoding_of(file, dtype), targets_of(file))
    for theirs, ours in NAMES.items():
        assert losses[ours].item() == pytest.approx(float(file[f"loss/{theirs}"]), rel=relative), ours
    of_pairs = losses["matching"] + losses["transport"]
    assert of_pairs.item() == pytest.approx(float(file["loss/itm_with_ot"]), abs=1e-4)
    total = torch.stack([*losses.values()]).sum() + soft_answers(file, network, states)
    assert total.item() == pytest.approx(float(file["loss/total"]), abs=1e-4)


def test_gradients_are_those_of_the_original_with_the_transport(golden: Path, tmp_path: Path) -> None:
    """Theirs are in float32: 1e-4 of the largest entry, and biases of keys have none."""
    file = dict(np.load(golden / "rosita" / "pretrain.npz"))
    network = Network(file, words_of(int(file["cfg/vocab"]), tmp_path / "words.txt"), torch.float32)
    losses, states = network.losses(encoding_of(file, torch.float32), targets_of(file))
    (torch.stack([*losses.values()]).sum() + soft_answers(file, network, states)).backward()
    gradients = {name.removeprefix("grad/"): file[name] for name in file if name.startswith("grad/")}
    theirs = translated({name: torch.from_numpy(value) for name, value in gradients.items()})
    ours = {name: parameter.grad for name, parameter in network.tensors().items()}
    assert theirs.keys() == ours.keys()
    for name, wanted in theirs.items():
        found = ours[name]
        assert found is not None, name
        if name.endswith("dense_k.bias"):  # a softmax follows: nothing but rounding
            assert float(found.abs().max()) < 1e-4
            continue
        largest = float(wanted.abs().max())
        assert float((found - wanted).abs().max()) <= 1e-4 * largest, name


def test_six_steps_are_those_of_the_original(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On items of the traces; one batch has no words to guess, another no pair that matches."""
    goldens = Goldens(golden / "rosita" / "pretrain_data")
    world = World.made(goldens, tmp_path_factory.mktemp("rosita"))
    task, file = world.task(), dict(np.load(goldens.folder / "run.npz"))
    drawn = {
        name.removeprefix("draw/"): values
        for name, values in np.load(goldens.folder / "trace.npz").items()
        if name.startswith("draw/")
    }
    network = Network(file, world.encoder.wordpiece, torch.float64)
    parameters = network.tensors()
    options = AdamConfig(name="bert-adam", weight_decay=float(file["opt/weight_decay"]), betas=(0.9, 0.999), eps=1e-6)
    optimiser = bert_adam(options, [{"params": [*parameters.values()]}])
    rate, total = float(file["opt/lr"]), int(file["opt/t_total"])
    length = TrainingLength(learning_rate=rate, steps_per_epoch=total, epochs=1)
    schedule = warmup_linear(WarmupLinearConfig(name="warmup-linear", warmup_epochs=float(file["opt/warmup"])), length)
    for step, batch in enumerate(file["index"]):
        traces = [{name: values[item, run] for name, values in drawn.items()} for item, run in batch.tolist()]
        encoding, targets, _ = world.replayed(task, traces, batch[:, 0].tolist())
        losses, states = network.losses(in_double(encoding), targets)
        *masked, of_pairs, whole = file["loss"][step].tolist()
        exact = 1e-9 if step < 2 else 1e-6  # the first step has rate 0
        assert [losses[name].item() for name in NAMES.values()] == pytest.approx(masked, abs=exact, rel=exact)
        assert (losses["matching"] + losses["transport"]).item() == pytest.approx(of_pairs, abs=1e-6)
        loss = torch.stack([*losses.values()]).sum()
        assert loss.item() == pytest.approx(whole, abs=1e-6)
        optimiser.zero_grad()
        (loss + 0 * network.answers(states).sum()).backward()
        norm = nn.utils.clip_grad_norm_(parameters.values(), float(file["opt/clip"]))
        assert norm.item() == pytest.approx(float(file["grad_norm_before_clip"][step]), abs=1e-5)
        optimiser.param_groups[0]["lr"] = schedule(step)
        assert schedule(step) == pytest.approx(float(file["lr"][step]), rel=1e-12)
        optimiser.step()
    final = {name.removeprefix("final/"): torch.from_numpy(file[name]) for name in file if name.startswith("final/")}
    for name, wanted in translated(final).items():
        torch.testing.assert_close(parameters[name].float(), wanted, atol=1e-5, rtol=0, msg=name)


def in_double(encoding: Encoding) -> Encoding:
    return Encoding(
        encoding.token_ids,
        encoding.text_mask,
        encoding.region_features.double(),
        encoding.boxes.double(),
        encoding.region_mask,
    )
