"""A plugin with an evaluation of its own, as somebody outside would write it: nothing but ``vlrun`` is imported.

The task orders the texts of every image by a score. Its predictions are one for each image, not for each example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun import (
    Backbone,
    BackboneOutput,
    Batch,
    DataError,
    Dataset,
    Encoding,
    Entry,
    Example,
    Metric,
    Pair,
    Prediction,
    RegionBatch,
    RunView,
    Score,
    Task,
    TaskConfig,
    hookimpl,
)


class RankingConfig(TaskConfig):
    between_epochs: int = 8
    at_least: int = 2


class First(Dataset[int]):
    """The first examples of a split."""

    def __init__(self, dataset: Dataset[int], count: int) -> None:
        self.dataset, self.count = dataset, count
        self.split, self.protocol = dataset.split, {**dataset.protocol, "left out": f"all but the first {count}"}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example[int]:
        return self.dataset[index]


class Scorer(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, output: BackboneOutput) -> Tensor:
        """Hidden states of P pairs -> scores (P,)."""
        return self.linear(output.pooled).squeeze(1)


class RankingTask(Task[int]):
    def __init__(self, config: RankingConfig) -> None:
        self.config = config

    def collate(
        self, examples: Sequence[Example[int]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        return {"label": torch.tensor([float(example.target or 0) for example in examples])}

    def build_head(self, backbone: Backbone) -> nn.Module:
        return Scorer(backbone.hidden_size)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"order": F.binary_cross_entropy_with_logits(outputs, targets["label"], reduction="sum")}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"order": torch.tensor(len(targets["label"]))}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        raise AssertionError("its own evaluation asks for no predictions of examples")

    def metrics(self) -> list[Metric]:
        return [BestFirst()]

    def check_splits(self, datasets: Mapping[str, Dataset[int]]) -> None:
        small = [name for name, dataset in datasets.items() if len(dataset) < self.config.at_least]
        if small:
            raise DataError(f"nothing to order in {', '.join(small)}: fewer than {self.config.at_least} texts")

    def describe_splits(self, datasets: Mapping[str, Dataset[int]]) -> list[tuple[str, str]]:
        return [("texts", f"{name}: {len(dataset)} to order") for name, dataset in datasets.items()]

    def evaluated_part(self, dataset: Dataset[int], *, final: bool) -> Dataset[int]:
        return dataset if final else First(dataset, self.config.between_epochs)

    def evaluation_protocol(self, *, final: bool) -> Mapping[str, str]:
        return {"order": "all texts of an image" if final else "its first texts"}

    def evaluate(self, run: RunView, split: str, *, final: bool) -> list[Prediction]:
        part, ranks = self.evaluated_part(run.datasets[split], final=final), run.ranks
        run.backbone.eval()
        run.head.eval()
        share = []
        for start in range(0, len(part), ranks.world_size):  # all processes look around equally often
            run.leave_if_asked("ordering texts")
            with ranks.together():
                if start + ranks.rank < len(part):
                    share.append(self._scored(run, part[start + ranks.rank]))
            run.progress(f"ordering {split}", start, len(part))
        images: dict[str, list[tuple[float, str]]] = {}
        for image, score, name in sorted(ranks.gather(share)):
            images.setdefault(image, []).append((score, name))
        run.note(f"{split}: ordered the texts of {len(images)} images")
        return [Prediction(image, {"order": [name for _, name in texts]}) for image, texts in images.items()]

    def _scored(self, run: RunView, example: Example[int]) -> tuple[str, float, str]:
        image = example.image_ids[0]
        encoding = run.encode([Pair(example.text, image)], run.read_regions([image]))
        with torch.inference_mode(), run.autocast():
            scores = run.head(run.backbone(encoding.to(run.device)))
        return image, -float(scores[0]), example.id


class BestFirst(Metric):
    """How often a text with target 1 is the first of its image."""

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> list[Score]:
        targets = {example.id: example.target for example in dataset}
        ordered = [name for prediction in predictions for name in prediction.fields["order"]]
        if sorted(ordered) != sorted(targets):
            raise DataError(f"split '{dataset.split}': the predictions are not those of its {len(targets)} texts")
        first = [targets[prediction.fields["order"][0]] for prediction in predictions]
        protocol = {**dataset.protocol, "texts": str(len(targets))}
        return [Score("best first", 100 * sum(first) / len(first), count=len(first), protocol=protocol, primary=True)]


@hookimpl
def vlrun_tasks() -> list[Entry]:
    return [
        Entry(
            name="ranking",
            summary="",
            config="ranking_world:RankingConfig",
            factory="ranking_world:RankingTask",
            target="class",
        )
    ]
