"""Targets, losses, gradients and boxes equal those of the authors' code (golden/rosita/rec.npz, loaders.npz)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlrun import BackboneOutput, Batch, Encoding, RegionBatch
from vlrun.blocks.boxes import DELTA_STDS
from vlrun_rec.build import build_rosita
from vlrun_rec.config import RefCocoConfig
from vlrun_rec.dataset import ReferringExpressions
from vlrun_rec.head import GroundingLogits, RegionGroundingHead

pytestmark = pytest.mark.golden

Vectors = Mapping[str, Any]


@pytest.fixture(scope="module")
def rec(golden: Path) -> Vectors:
    return dict(np.load(golden / "rosita/rec.npz"))


def assert_targets_equal(targets: Mapping[str, torch.Tensor], vectors: Vectors, prefix: str) -> None:
    valid = vectors[f"{prefix}/rank_valid"][:, None]
    np.testing.assert_allclose(targets["rank_targets"], vectors[f"{prefix}/rank_label"], atol=1e-7, rtol=0)
    np.testing.assert_array_equal(targets["rank_weights"], vectors[f"{prefix}/rank_weight"] * valid)
    np.testing.assert_array_equal(targets["delta_weights"], vectors[f"{prefix}/reg_weight"] * valid)
    # Logarithms of float32 numbers may differ in the last bit from machine to machine
    np.testing.assert_allclose(targets["delta_targets"], vectors[f"{prefix}/reg_label"], atol=1e-6, rtol=2e-7)
    np.testing.assert_array_equal(targets["boxes"], vectors[f"{prefix}/img_boxes"])
    np.testing.assert_array_equal(targets["image_sizes"], vectors[f"{prefix}/img_shape"])
    np.testing.assert_array_equal(targets["target_boxes"].float(), vectors[f"{prefix}/gt_box"][:, 0])


def test_targets_of_hand_made_cases(
    rec: Vectors, make_task: Any, make_dataset: Any, make_regions: Any, make_batch: Any
) -> None:
    sizes = np.stack([rec["case/image_h"], rec["case/image_w"]], axis=1)
    regions = make_regions(rec["case/boxes"], rec["case/num_boxes"], sizes)
    dataset = make_dataset(rec["case/gt_xywh"])
    dataset.examples = [
        replace(example, target=replace(example.target, image_height=height, image_width=width))
        for example, (height, width) in zip(dataset.examples, sizes, strict=True)
    ]
    batch = make_batch(make_task(), dataset, regions, int(rec["case/regions"]))
    assert_targets_equal(batch.targets, rec, "case_out")
    np.testing.assert_array_equal(batch.encoding.region_mask, rec["case_out/imgfeat_mask"] > 0)


def npz_regions(folder: Path, image_ids: list[str]) -> RegionBatch:
    """What a region-feature store would read."""
    images = [np.load(folder / f"{image_id}.jpg.npz") for image_id in image_ids]
    count = max(len(image["boxes"]) for image in images)
    boxes = np.zeros((len(images), count, 4), np.float32)
    features = np.zeros((len(images), count, images[0]["x"].shape[1]), np.float32)
    mask = np.zeros((len(images), count), bool)
    for row, image in enumerate(images):
        real = len(image["boxes"])
        boxes[row, :real], features[row, :real], mask[row, :real] = image["boxes"], image["x"], True
    sizes = np.array([[image["image_h"], image["image_w"]] for image in images], np.float32)
    return RegionBatch(tuple(image_ids), features, boxes, mask, sizes)


def test_targets_of_a_data_set_in_the_authors_files(
    golden: Path, tmp_path: Path, make_task: Any, make_batch: Any
) -> None:
    mini = golden / "rosita/mini"
    build_rosita("refcoco", "unc", mini / "annotations", tmp_path)
    config = RefCocoConfig(name="refcoco", annotations=tmp_path, features=tmp_path, evaluate=["val"])
    dataset = ReferringExpressions(config, "train")
    loaders = np.load(golden / "rosita/loaders.npz")
    regions = npz_regions(mini / "imgfeats/mscoco_bua_r101_fix36/npz_files", list(dataset.image_ids()))
    batch = make_batch(make_task(), dataset, regions, loaders["rec/train/rank_label"].shape[1])
    assert_targets_equal(batch.targets, loaders, "rec/train")


def authors_targets(rec: Vectors) -> dict[str, torch.Tensor]:
    valid = rec["label/rank_valid"][:, None]
    return {
        "rank_targets": torch.from_numpy(rec["label/rank_label"]),
        "rank_weights": torch.from_numpy(rec["label/rank_weight"] * valid),
        "delta_targets": torch.from_numpy(rec["label/reg_label"]),
        "delta_weights": torch.from_numpy(rec["label/reg_weight"] * valid),
    }


def means(task: Any, outputs: GroundingLogits, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the core takes them: each sum over its count, 0 where nothing counts."""
    counts = task.loss_counts(targets)
    return {name: total / counts[name].clamp(min=1) for name, total in task.loss(outputs, targets).items()}


def test_losses_of_the_authors_outputs(rec: Vectors, make_task: Any) -> None:
    outputs = GroundingLogits(torch.from_numpy(rec["out/pred_rank"]), torch.from_numpy(rec["out/pred_reg"]))
    losses = means(make_task(), outputs, authors_targets(rec))
    assert losses["ranking"].item() == pytest.approx(rec["loss/rank"], abs=1e-9)
    assert losses["box"].item() == pytest.approx(rec["loss/reg_weighted"], abs=1e-9)
    assert sum(losses.values()).item() == pytest.approx(rec["loss/total"], abs=1e-9)


def test_losses_are_zero_where_nothing_is_valid(rec: Vectors, make_task: Any) -> None:
    outputs = GroundingLogits(torch.from_numpy(rec["out/pred_rank"]), torch.from_numpy(rec["out/pred_reg"]))
    targets = {name: torch.zeros_like(values) for name, values in authors_targets(rec).items()}
    assert sum(means(make_task(), outputs, targets).values()).item() == rec["loss/total_none_valid"] == 0


def authors_head(rec: Vectors, dtype: torch.dtype, **options: Any) -> RegionGroundingHead:
    prefix = "state/mm_refs_head."
    state = {name.removeprefix(prefix): torch.from_numpy(rec[name]) for name in rec if name.startswith(prefix)}
    head = RegionGroundingHead(int(rec["cfg/hsize"]), **options)
    head.load_state_dict(state)
    return head.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
def test_outputs_and_gradients_of_the_head(
    dtype: torch.dtype, tolerance: float, rec: Vectors, make_output: Any, make_task: Any
) -> None:
    mask = torch.from_numpy(rec["in/imgfeat_mask"] > 0)
    assert not mask.all(), "one of the samples has padding"
    head = authors_head(rec, dtype, score_padded_regions=True)
    outputs = head(make_output(torch.from_numpy(rec["out/imgfeat"]).to(dtype), mask))
    np.testing.assert_allclose(outputs.scores.detach(), rec["out/pred_rank"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(outputs.deltas.detach(), rec["out/pred_reg"], atol=tolerance, rtol=0)
    sum(means(make_task(), outputs, authors_targets(rec)).values()).backward()
    for name, parameter in head.named_parameters():
        expected = rec[f"grad/mm_refs_head.{name}"]
        np.testing.assert_allclose(parameter.grad, expected, atol=tolerance * max(1, abs(expected).max()), rtol=0)


def test_the_whole_network_trains_as_the_authors(rec: Vectors, tmp_path: Path, make_task: Any) -> None:
    """Backbone, head and losses together: outputs, loss and the gradient of every parameter, in float64."""
    rosita = pytest.importorskip("vlrun_rosita.model")
    from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece

    vocabulary = tmp_path / "vocabulary.txt"
    words = [*SPECIAL_TOKENS, *(f"word{number}" for number in range(int(rec["cfg/vocab"])))]
    vocabulary.write_text("".join(f"{word}\n" for word in words[: int(rec["cfg/vocab"])]))
    backbone = rosita.Rosita(
        WordPiece(vocabulary),
        hidden_size=int(rec["cfg/hsize"]),
        num_layers=int(rec["cfg/layers"]),
        num_heads=int(rec["cfg/heads"]),
        feed_forward_size=int(rec["cfg/hff"]),
        max_positions=int(rec["cfg/pos"]),
        region_feature_size=int(rec["cfg/imgfeat"]),
        num_regions=int(rec["cfg/regions"]),
        dropout=0.0,
    )
    del backbone.mm_itm_head  # nor has the authors' network here, and all of its parameters are compared
    state = {name.removeprefix("state/"): torch.from_numpy(rec[name]) for name in rec if name.startswith("state/")}
    backbone.load_state_dict({name: value for name, value in state.items() if not name.startswith("mm_refs_head.")})
    backbone.double()
    task = make_task(score_padded_regions=True)
    head = authors_head(rec, torch.float64, score_padded_regions=True)
    encoding = Encoding(
        token_ids=torch.from_numpy(rec["in/text_ids"]),
        text_mask=torch.from_numpy(rec["in/text_mask"]) > 0,
        region_features=torch.from_numpy(rec["in/imgfeat"]),
        boxes=torch.from_numpy(rec["in/bbox"]),
        region_mask=torch.from_numpy(rec["in/imgfeat_mask"]) > 0,
    )
    output: BackboneOutput = backbone(encoding)
    outputs = head(output)
    np.testing.assert_allclose(outputs.scores.detach(), rec["out/pred_rank"], atol=1e-9, rtol=0)
    loss = sum(means(task, outputs, authors_targets(rec)).values())
    assert loss.item() == pytest.approx(rec["loss/total"], abs=1e-9)
    loss.backward()
    parameters = {**dict(backbone.named_parameters()), **{f"mm_refs_head.{n}": p for n, p in head.named_parameters()}}
    assert parameters.keys() == state.keys()
    for name, parameter in parameters.items():
        found = np.zeros_like(rec[f"grad/{name}"]) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(found, rec[f"grad/{name}"], atol=1e-9, rtol=0, err_msg=name)


def test_chosen_regions_and_decoded_boxes(rec: Vectors, make_task: Any, make_encoding: Any, make_dataset: Any) -> None:
    task = make_task(score_padded_regions=True)
    count = len(rec["decode/best"])
    targets = {
        "boxes": torch.from_numpy(rec["decode/anchors"]),
        "image_sizes": torch.from_numpy(rec["decode/img_shape_hw"]).float(),
        "target_boxes": torch.from_numpy(rec["decode/gt_xyxy"]).double(),
    }
    batch = Batch(tuple(map(str, range(count))), make_encoding(np.ones(rec["decode/rank"].shape, bool)), targets)
    outputs = GroundingLogits(torch.from_numpy(rec["decode/rank"]), torch.from_numpy(rec["decode/deltas_normalised"]))
    found = task.predict(outputs, batch)
    best = rec["decode/best"]
    assert [prediction.fields["region"] for prediction in found] == best.tolist()
    expected = rec["decode/boxes_clipped"][np.arange(count), best]
    np.testing.assert_allclose([prediction.fields["box"] for prediction in found], expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose([p.fields["iou"] for p in found], rec["decode/iou"], atol=1e-6, rtol=0)

    x1, y1, x2, y2 = rec["decode/gt_xyxy"].T.astype(np.float64)
    dataset = make_dataset(np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).tolist())
    (metric,) = task.metrics()
    (accuracy, *_) = metric(found, dataset)
    assert accuracy.value == pytest.approx(rec["decode/accuracy_percent"], abs=1e-9)


def test_decoding_needs_no_folding_of_statistics_into_the_weights(rec: Vectors) -> None:
    """The original multiplies the last layer by the stds in place and restores it after the evaluation."""
    head = authors_head(rec, torch.float64)
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, int(rec["cfg/hsize"]))))
    ours = head.dense_reg(states) * torch.tensor(DELTA_STDS)
    folded = states @ torch.from_numpy(rec["fold/dense_reg.weight"]).double().T
    folded = folded + torch.from_numpy(rec["fold/dense_reg.bias"]).double()
    np.testing.assert_allclose(ours.detach(), folded, atol=1e-6, rtol=0)
