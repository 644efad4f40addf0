"""Visual entailment as UNITER trains it: three classes of the pooled output (train_ve.py of ChenRocks/UNITER)."""

from __future__ import annotations

from vlrun import Metric
from vlrun.blocks.answering import AnsweringTask
from vlrun_snli_ve.metric import EntailmentAccuracy


class EntailmentTask(AnsweringTask):
    """Chooses the label of a statement; the labels are the answers."""

    def metrics(self) -> list[Metric]:
        return [EntailmentAccuracy()]
