"""``tensorboard/``: the curves of a run for TensorBoard."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlrun.interfaces.reporter import EvaluationReport, Outcome, Reporter, RunInfo, StepReport
from vlrun.reporting.wording import DEMO_NOTICE, grouped_facts

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER_NAME = "tensorboard"


class TensorBoardReporter(Reporter):
    """Writes scalars for each step and each evaluation, and the header as text.

    A continued run tells TensorBoard to forget the steps after its checkpoint.
    """

    leaves = MappingProxyType({"TensorBoard": "tensorboard"})

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._curves: set[str] = set()
        self._is_joint = False

    def start(self, run: RunInfo) -> None:
        """Opens the files and writes the facts of the run as a table."""
        from torch.utils.tensorboard import SummaryWriter

        self._is_joint = run.num_tasks > 1
        purge = run.start_step + 1 if run.start_step else None
        self._writer = SummaryWriter(str(run.folder / FOLDER_NAME), purge_step=purge)
        facts = [("experiment", run.experiment), *grouped_facts(run.facts)]
        table = ["| | |", "|---|---|", *(f"| {_cell(label)} | {_cell(value)} |" for label, value in facts)]
        notice = [f"**{DEMO_NOTICE}**", ""] if run.is_demo else []
        self._call("add_text", "run", "\n".join([*notice, *table]), run.start_step)

    def step(self, report: StepReport) -> None:
        """Writes losses, learning rate, gradient norm, speed, and what else is reported."""
        train = f"train/{report.task}" if self._is_joint else "train"
        scalars = {
            f"{train}/loss": report.loss,
            **{f"{train}/{name}": value for name, value in report.losses.items() if name != "loss"},
            **{f"{train}/scalars/{name}": value for name, value in report.scalars.items()},
            "train/learning_rate": report.learning_rate,
            "train/gradient_norm": report.gradient_norm,
            "speed/examples_per_second": report.examples_per_second,
            "speed/data_wait_share": report.data_wait_share,
        }
        for tag, value in scalars.items():
            self._call("add_scalar", tag, value, report.step)

    def evaluation(self, report: EvaluationReport) -> None:
        """Writes the scores, without details."""
        for score in report.scores:
            if score.detail:
                continue
            tag = f"eval/{report.task}/{report.split}/{score.name}"
            if report.final and tag in self._curves:  # the score of the best checkpoint is no point of the curve
                tag = f"final/{tag.removeprefix('eval/')}"
            self._curves.add(tag)
            self._call("add_scalar", tag, score.value, report.step)
        self._call("flush")

    def finish(self, outcome: Outcome) -> None:
        """Writes what is buffered."""
        self._call("flush")

    def close(self) -> None:
        self._call("close")
        self._writer = None

    def _call(self, method: str, *arguments: Any) -> None:
        if self._writer is not None:
            getattr(self._writer, method)(*arguments)


def _cell(text: str) -> str:
    """``text`` escaped so that a cell of a Markdown table shows it unchanged."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return "<br>".join(escaped.splitlines())
