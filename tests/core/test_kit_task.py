"""The kit's check of tasks: what is right passes, and each mistake is caught with a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun import Backbone, Batch, Encoding, Example, Metric, NamedHead, Prediction, RegionBatch, Task
from vlrun.blocks.heads import PooledClassifier
from vlrun.testing import StubBackbone, check_task, make_regions

EXAMPLES = [Example(str(index), text, (f"image{index}",), index % 2 == 0) for index, text in enumerate("abcd")]


class YesNo(Task[bool]):
    """Is it true? With everything as it should be."""

    def collate(
        self, examples: Sequence[Example[bool]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        return {"true": torch.tensor([int(bool(example.target)) for example in examples])}

    def build_head(self, backbone: Backbone) -> nn.Module:
        return PooledClassifier(backbone.hidden_size, 2)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"truth": F.cross_entropy(outputs, targets["true"], reduction="sum")}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"truth": float(len(targets["true"]))}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction(name, {"true": bool(row[1] > row[0])}) for name, row in zip(batch.ids, outputs, strict=True)]

    def metrics(self) -> list[Metric]:
        return []


class Means(YesNo):
    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"truth": F.cross_entropy(outputs, targets["true"])}


class LossPerExample(YesNo):
    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"truth": F.cross_entropy(outputs, targets["true"], reduction="none")}


class OtherName(YesNo):
    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"truths": float(len(targets["true"]))}


class CountsBatches(YesNo):
    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"truth": 1.0}


class LearnsNothing(YesNo):
    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"truth": super().loss(outputs.detach(), targets)["truth"].requires_grad_()}


class ReadsValues(YesNo):
    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        losses = super().loss(outputs, targets)
        return losses if losses["truth"].item() >= 0 else {}


class Unordered(YesNo):
    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        return super().predict(outputs, batch)[::-1]


class LeavesOneOut(YesNo):
    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        return super().predict(outputs, batch)[1:]


class PredictsTensors(YesNo):
    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction(name, {"logit": row[0]}) for name, row in zip(batch.ids, outputs, strict=True)]


class PredictsNoNumber(YesNo):
    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction(name, {"logit": float("nan")}) for name in batch.ids]


class NamesAStranger(YesNo):
    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        return {"answer_head": NamedHead(nn.Linear(2, 2))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Means, "loss 'truth' must be a sum over items"),
        (LossPerExample, "loss 'truth' must be a scalar, and has the shape (4,)"),
        (OtherName, "loss and loss_counts must name the same losses: truth, and truths"),
        (CountsBatches, "count 'truth' must add up"),
        (LearnsNothing, "the head gets no gradient"),
        (ReadsValues, "forward pass and loss must not read values of tensors"),
        (Unordered, "predict must give one prediction for each example, in order: ['3', "),
        (LeavesOneOut, "predict must give one prediction for each example, in order: ['1', "),
        (PredictsTensors, "the prediction for '0' cannot be written to JSON (Object of type Tensor"),
        (PredictsNoNumber, "the prediction for '0' cannot be written to JSON (Out of range"),
        (NamesAStranger, "head 'answer_head' must be a part of what build_head gives"),
    ],
)
def test_a_wrong_task_is_caught(make: type[Task[Any]], message: str) -> None:
    regions = make_regions([image for example in EXAMPLES for image in example.image_ids], 8)
    with pytest.raises(AssertionError) as error:
        check_task(make(), StubBackbone(), EXAMPLES, regions)
    assert message in str(error.value)


def test_a_right_task_passes() -> None:
    regions = make_regions([image for example in EXAMPLES for image in example.image_ids], 8)
    batch = check_task(YesNo(), StubBackbone(), EXAMPLES, regions)
    assert batch.ids == ("0", "1", "2", "3")
