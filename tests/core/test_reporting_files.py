"""metrics.jsonl and the TensorBoard files: what programs read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, RunInfo, StepReport
from vlrun.reporting.jsonl import JsonLinesReporter, read_metrics
from vlrun.reporting.tensorboard import TensorBoardReporter


def run_info(folder: Path, start_step: int = 0) -> RunInfo:
    facts = [("data", "a | b"), ("data", "<c>")]
    return RunInfo("toy", folder, facts, total_steps=4, steps_per_epoch=2, epochs=2, start_step=start_step)


def step_report(step: int, loss: float = 0.1) -> StepReport:
    losses = {"ranking": loss / 3, "box": loss - loss / 3}
    return StepReport(step, (step + 1) // 2, "rec", losses, loss, 1e-4 / 3, 1.7, 99.5, 0.25, 3.0)


def evaluation(step: int, value: float, final: bool = False, split: str = "val") -> EvaluationReport:
    protocol = {"split": split, "iou_rule": "plus_one", "pool": [1000, 5000]}
    score = Score("accuracy", value, count=7, protocol=protocol, primary=True)
    return EvaluationReport("rec", split, step, step // 2, [score], 1.5, 7, final)


def write_run(folder: Path, start_step: int = 0, until: int = 4, finish: bool = True) -> str:
    """Steps and evaluations from ``start_step`` on, as training reports them; the content of the file."""
    reporter = JsonLinesReporter()
    reporter.start(run_info(folder, start_step))
    for step in range(start_step + 1, until + 1):
        reporter.step(step_report(step, loss=1 / (step + 0.7)))
        if step % 2 == 0:
            reporter.evaluation(evaluation(step, 50 + step / 3))
    if finish:
        reporter.evaluation(evaluation(until, 51.3, final=True))
        reporter.finish(Outcome("done", ""))
    reporter.close()
    return (folder / "metrics.jsonl").read_text()


def test_a_step_is_one_object_with_all_its_numbers(tmp_path: Path) -> None:
    reporter = JsonLinesReporter()
    reporter.start(run_info(tmp_path))
    reporter.step(step_report(1))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()  # without a close: a kill loses nothing
    content = json.loads(line)
    assert len(content.pop("crc32")) == 8
    assert content == {
        "kind": "step",
        "step": 1,
        "epoch": 1,
        "task": "rec",
        "loss": 0.1,
        "losses": {"ranking": 0.1 / 3, "box": 0.1 - 0.1 / 3},
        "learning_rate": 1e-4 / 3,
        "gradient_norm": 1.7,
        "examples_per_second": 99.5,
        "data_wait_share": 0.25,
    }
    reporter.close()


def test_numbers_beside_the_losses_are_kept_apart_from_them(tmp_path: Path) -> None:
    reporter = JsonLinesReporter()
    reporter.start(run_info(tmp_path))
    reporter.step(replace(step_report(1), scalars={"loss": 0.25, "norm": float("nan")}))
    reporter.close()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert line["loss"] == 0.1
    assert line["scalars"] == {"loss": 0.25, "norm": None}


def test_a_result_carries_its_protocol(tmp_path: Path) -> None:
    write_run(tmp_path)
    results = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "result"]
    assert results[-1] == {
        "kind": "result",
        "task": "rec",
        "split": "val",
        "name": "accuracy",
        "value": 51.3,
        "unit": "%",
        "count": 7,
        "step": 4,
        "epoch": 2,
        "final": True,
        "primary": True,
        "protocol": {"split": "val", "iou_rule": "plus_one", "pool": [1000, 5000]},
    }


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 0.30000001192092896])
def test_losses_come_back_bit_for_bit(tmp_path: Path, value: float) -> None:
    reporter = JsonLinesReporter()
    reporter.start(run_info(tmp_path))
    reporter.step(step_report(1, loss=value))
    reporter.close()
    assert next(read_metrics(tmp_path / "metrics.jsonl"))["loss"].hex() == value.hex()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_becomes_null(tmp_path: Path, value: float) -> None:
    reporter = JsonLinesReporter()
    reporter.start(run_info(tmp_path))
    reporter.step(step_report(1, loss=value))
    reporter.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert line["loss"] is None


@pytest.mark.parametrize("checkpoint", [0, 1, 2, 3, 4])
def test_a_resumed_run_leaves_the_file_of_an_unbroken_one(tmp_path: Path, checkpoint: int) -> None:
    unbroken = write_run(tmp_path / "unbroken")
    write_run(tmp_path / "broken", until=max(3, checkpoint), finish=checkpoint == 4)  # 4: killed at the very end
    assert write_run(tmp_path / "broken", start_step=checkpoint) == unbroken


def test_an_evaluation_repeated_after_its_checkpoint_is_there_once(tmp_path: Path) -> None:
    write_run(tmp_path, until=2, finish=False)
    reporter = JsonLinesReporter()
    reporter.start(run_info(tmp_path, start_step=2))
    reporter.evaluation(evaluation(2, 60.0))
    reporter.evaluation(evaluation(2, 61.0, split="testA"))
    reporter.step(step_report(3))
    reporter.close()
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [(line["kind"], line["step"], line.get("value")) for line in lines] == [
        ("step", 1, None),
        ("step", 2, None),
        ("result", 2, 60.0),
        ("result", 2, 61.0),
        ("step", 3, None),
    ]


def test_a_line_cut_off_by_a_kill_is_dropped_when_the_run_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path, until=2, finish=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 3, "lo')
    assert write_run(tmp_path, start_step=2) == write_run(tmp_path / "unbroken")


def test_the_old_lines_survive_when_they_cannot_be_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_run(tmp_path)

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        JsonLinesReporter().start(run_info(tmp_path, start_step=1))
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_protocol_values_that_json_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    reporter = JsonLinesReporter()
    reporter.start(run_info(tmp_path))
    score = Score("accuracy", 1.0, protocol={"file": Path("val.jsonl"), "limits": (0.5, math.inf)})
    reporter.evaluation(EvaluationReport("rec", "val", 1, 1, [score], 1.0, 7))
    reporter.close()
    assert next(read_metrics(tmp_path / "metrics.jsonl"))["protocol"] == {"file": "val.jsonl", "limits": [0.5, None]}


def tensorboard_content(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def write_tensorboard(folder: Path, start_step: int, until: int, loss: float) -> None:
    reporter = TensorBoardReporter()
    reporter.start(run_info(folder, start_step))
    for step in range(start_step + 1, until + 1):
        reporter.step(step_report(step, loss))
    reporter.evaluation(evaluation(until, 50.0))
    reporter.evaluation(evaluation(until, 51.0, final=True))
    reporter.evaluation(evaluation(until, 52.0, final=True, split="testA"))
    reporter.finish(Outcome("done", ""))
    reporter.close()


def test_tensorboard_has_curves_scores_and_the_header(tmp_path: Path) -> None:
    write_tensorboard(tmp_path, 0, 3, loss=0.5)
    content = tensorboard_content(tmp_path)
    assert set(content.Tags()["scalars"]) == {
        "train/loss",
        "train/ranking",
        "train/box",
        "train/learning_rate",
        "train/gradient_norm",
        "speed/examples_per_second",
        "speed/data_wait_share",
        "eval/rec/val/accuracy",
        "final/rec/val/accuracy",
        "eval/rec/testA/accuracy",
    }
    assert [(event.step, event.value) for event in content.Scalars("train/loss")] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [event.value for event in content.Scalars("eval/rec/val/accuracy")] == [50.0]
    text = content.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| data | a \\| b<br>&lt;c> |" in text


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    write_tensorboard(tmp_path, 0, 3, loss=0.5)
    write_tensorboard(tmp_path, 1, 4, loss=0.25)
    events = tensorboard_content(tmp_path).Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 0.5), (2, 0.25), (3, 0.25), (4, 0.25)]
