"""GQA: one class per answer, on the pooled output of a question with its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlrun import Metric, Prediction
from vlrun.blocks.answering import AnsweringTask
from vlrun_gqa.metric import GqaAccuracy
from vlrun_gqa.submission import write_submission


class GqaTask(AnsweringTask):
    """Answers questions as LXMERT does. Answers are not normalised: data and evaluator spell them the same way."""

    submission_suffix = ".json"

    def metrics(self) -> list[Metric]:
        return [GqaAccuracy(self.vocabulary)]

    def write_submission(self, predictions: Sequence[Prediction], path: Path) -> None:
        write_submission(predictions, path)
