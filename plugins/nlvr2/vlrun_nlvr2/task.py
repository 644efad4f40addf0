"""NLVR2 as LXMERT trains it: the pooled outputs of both pairs side by side, two classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun import (
    Backbone,
    Batch,
    Case,
    Choice,
    DataError,
    Encoding,
    Example,
    Metric,
    Pair,
    Prediction,
    RegionBatch,
    Task,
)
from vlrun.blocks.heads import PooledClassifier
from vlrun_nlvr2.config import Nlvr2AccuracyConfig, Nlvr2TaskConfig
from vlrun_nlvr2.dataset import Statement
from vlrun_nlvr2.metric import Nlvr2Accuracy
from vlrun_nlvr2.submission import write_csv

NUM_IMAGES = 2
NUM_CLASSES = 2  # class 1 is true


class Nlvr2Task(Task[Statement]):
    """Two pairs per statement: with the left image, then with the right one."""

    imported_head = "nlvr2_head"
    submission_suffix = ".csv"
    asked_images = NUM_IMAGES

    def __init__(self, config: Nlvr2TaskConfig) -> None:
        self.config = config

    def pairs(self, example: Example[Statement], rng: np.random.Generator) -> list[Pair]:
        """The statement with the left image, then with the right one.

        Raises:
            DataError: the example has not exactly two images.
        """
        if len(example.image_ids) != NUM_IMAGES:
            raise DataError(
                f"statement '{example.id}' has {len(example.image_ids)} images "
                f"({', '.join(example.image_ids) or 'none'}); task 'nlvr2' needs a left and a right one"
            )
        return super().pairs(example, rng)

    def collate(
        self, examples: Sequence[Example[Statement]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """labels: (B,) int64, 1 for true. known: (B,) float, 0 for a statement whose label is hidden."""
        return {
            "labels": torch.tensor([int(example.target is not None and example.target.label) for example in examples]),
            "known": torch.tensor([float(example.target is not None) for example in examples]),
        }

    def build_head(self, backbone: Backbone) -> nn.Module:
        return PooledClassifier(backbone.hidden_size, NUM_CLASSES, images_per_example=NUM_IMAGES)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``truth``: cross entropy of the logits (B, 2), one item per statement with a known label."""
        per_statement = F.cross_entropy(outputs, targets["labels"], reduction="none")
        return {"truth": (per_statement * targets["known"]).sum()}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"truth": targets["known"].sum()}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        """Chooses the class with the larger logit; equal logits mean false.

        Fields: ``label``; ``score``, the probability of true.
        """
        labels = outputs.numpy().argmax(axis=1) == 1
        probabilities = outputs.double().softmax(dim=1)[:, 1].tolist()
        return [
            Prediction(name, {"label": bool(label), "score": probability})
            for name, label, probability in zip(batch.ids, labels, probabilities, strict=True)
        ]

    def case(self, prediction: Prediction, example: Example[Statement]) -> Case:
        """A statement with its label."""
        case, label = super().case(prediction, example), prediction.fields.get("label")
        case = replace(case, predicted=str(label).lower())
        if example.target is None:
            return case
        truth = example.target.label
        return replace(case, truth={"label": truth}, right=str(truth).lower(), credit=float(label == truth))

    def choices(self, outputs: Tensor, batch: Batch) -> list[Choice]:
        """``true`` and ``false``, the more probable one first; ``false`` where they are equal."""
        false, true = outputs[0].double().softmax(dim=0).tolist()
        choices = [Choice("false", false), Choice("true", true)]
        return choices if outputs[0, 0] >= outputs[0, 1] else choices[::-1]

    def metrics(self) -> list[Metric]:
        return [Nlvr2Accuracy(Nlvr2AccuracyConfig(name="nlvr2-accuracy"))]

    def write_submission(self, predictions: Sequence[Prediction], path: Path) -> None:
        write_csv(predictions, path)
