"""Visual question answering: one pair per question, one class per answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlrun import Answers, Metric, Prediction
from vlrun.blocks.answering import AnsweringTask
from vlrun_vqa.accuracy import ground_truth
from vlrun_vqa.config import VqaAccuracyConfig, VqaConfig
from vlrun_vqa.metric import VqaAccuracy
from vlrun_vqa.normalisation import vocabulary_spelling
from vlrun_vqa.submission import write_results


class VqaTask(AnsweringTask):
    """The core's answering task with the official accuracy, ROSITA's spelling, and the server's file."""

    submission_suffix = ".json"

    def __init__(self, config: VqaConfig) -> None:
        super().__init__(config)
        self.normalise_answers = config.normalise_answers

    def normalised(self, answer: str) -> str:
        return vocabulary_spelling(answer) if self.normalise_answers else answer

    def metrics(self) -> list[Metric]:
        return [VqaAccuracy(VqaAccuracyConfig(name="vqa-accuracy"), self.vocabulary)]

    def credit(self, answer: str, target: Answers) -> float:
        """The accuracy of the official evaluator for this question."""
        if not target.answers:
            return super().credit(answer, target)
        truth = ground_truth(target.answers, getattr(target, "annotators", ()), "current")
        return truth.score(truth.spelled(answer))

    def write_submission(self, predictions: Sequence[Prediction], path: Path) -> None:
        write_results(predictions, path)
