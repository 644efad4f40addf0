"""What others wrote never controls a terminal: every command prints through one function, or through a reporter."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from vlrun.cli import main
from vlrun.foreign.printing import say, say_json
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, ResultRow, RunInfo, StepReport
from vlrun.reporting.console import ConsoleReporter
from vlrun.reporting.log import LogReporter

ROOT = Path(__file__).resolve().parents[2]
ESCAPE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202etxt.exe\u2066\x7f"
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x2028, 0x2029, 0x202E, 0x2066)]


def controls_in(text: str) -> set[str]:
    return set(text) & set(CONTROLS) - {"\n"}


def test_each_argument_is_one_line_that_controls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say("".join(CONTROLS) + "end", "second\nError: forged", 3)
    say(ESCAPE, to=sys.stderr)
    out, error = capsys.readouterr()
    assert out.splitlines() == [" " * len(CONTROLS) + "end", "second Error: forged", "3"]
    assert not controls_in(out + error)


def test_letters_and_signs_of_all_languages_stay(capsys: pytest.CaptureFixture[str]) -> None:
    say("größe ± 日本語 שלום 😀")
    assert capsys.readouterr().out == "größe ± 日本語 שלום 😀\n"


def test_what_a_stream_cannot_encode_is_a_question_mark() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("größe ± \udcff", to=stream)
    stream.seek(0)
    assert stream.read() == "gr??e +- ?\n"


def test_json_says_what_it_said_and_controls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"".join(CONTROLS): ["größe", "\udcff", ESCAPE]}
    say_json(content)
    out = capsys.readouterr().out
    assert not controls_in(out)
    assert json.loads(out) == content
    say_json([float("nan"), float("inf")], indent=None)
    assert json.loads(capsys.readouterr().out) == [None, None]


def test_json_for_a_stream_of_letters_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("vlrun.foreign.printing.sys", SimpleNamespace(stdout=stream))
    say_json({"größe": "😀"}, indent=None)
    stream.seek(0)
    assert json.loads(stream.read()) == {"größe": "😀"}


def test_nothing_is_printed_past_that_function() -> None:
    """Ruff's rule T201 finds print; this one finds what writes to the streams."""
    own = {"foreign/printing.py", "reporting/tables.py", "reporting/progress.py", "cli/completion.py"}
    found = [
        str(path.relative_to(ROOT / "core" / "vlrun"))
        for path in sorted((ROOT / "core" / "vlrun").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("write", "writelines")
        and ast.unparse(node.value) in ("sys.stdout", "sys.stderr", "stream", "self._stream")
    ]
    assert set(found) <= own, found


@pytest.mark.parametrize(
    "words",
    [
        ["run", f"none{ESCAPE}.yaml"],
        ["run", "rosita_vqa", ESCAPE],
        ["run", "rosita_vqa", f"train.{ESCAPE}=3"],
        ["run", "rosita_vqa", f"train.epochs={ESCAPE}"],
        ["run", "rosita_vqa", f"backbone.name={ESCAPE}"],
        ["validate", "rosita_vqa", f"--{ESCAPE}"],
        ["evaluate", f"/tmp/{ESCAPE}"],
        ["report", ESCAPE],
        [ESCAPE],
        ["list", ESCAPE],
        ["data", "get", ESCAPE],
        ["data", "build", ESCAPE, "--from", "official", "x", "y"],
        ["features", "inspect", ESCAPE],
        ["weights", "inspect", ESCAPE],
        ["weights", "import", "--from", ESCAPE, "x", "y.safetensors"],
        ["new-plugin", ESCAPE],
    ],
    ids=lambda words: words[0] if words[0].isprintable() else "no verb",
)
def test_a_command_repeats_what_was_typed_without_its_controls(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, error = capsys.readouterr()
    assert status in (2, 3, 4, 5, 6)
    assert error
    assert not controls_in(out + error)


def test_a_file_prints_nothing_that_controls_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Keys, names and values of an experiment that somebody else wrote."""
    path = tmp_path / "a\x1b[2J\nError: forged\u202e.yaml"
    key = json.dumps(ESCAPE)
    path.write_text(
        f"backbone: {{name: {key}, {key}: 1}}\ntrain: {{epochs: {key}, {key}: {key}}}\n"
        f"tasks: [{{name: vqa, label: {key}, dataset: {{name: {key}}}}}]\n{key}: {{{key}: {key}}}\n"
    )
    assert main(["validate", str(path)]) == 3
    out, error = capsys.readouterr()
    assert not controls_in(out + error)
    assert not [line for line in error.splitlines() if line.startswith("Error: forged")]


def test_a_live_panel_and_a_log_show_what_they_are_given_as_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rich moves the cursor by sequences of its own, none of which begins as this one does."""
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    score = Score(ESCAPE, 50.0, unit=ESCAPE, protocol={ESCAPE: ESCAPE}, primary=True)
    step = StepReport(1, 1, ESCAPE, {ESCAPE: 1.0, "b": 2.0}, 1.0, 0.1, 1.0, 1.0, 0.5, 9.0, 1, scalars={ESCAPE: 1.0})
    rows = [ResultRow(ESCAPE, ESCAPE, score, 51.0, ESCAPE, [ESCAPE])]
    run = RunInfo(ESCAPE, tmp_path, [(ESCAPE, ESCAPE)], 2, 2, 1, num_tasks=2)
    for reporter in (ConsoleReporter(console=Console(file=stream, force_terminal=True, width=80)), LogReporter()):
        reporter.start(run)
        reporter.note(ESCAPE)
        reporter.step(step)
        reporter.flush()
        reporter.progress(ESCAPE, 1, 2)
        reporter.evaluation(EvaluationReport(ESCAPE, ESCAPE, 1, 1, [score], 1.0, 7, checkpoint=ESCAPE))
        reporter.finish(Outcome("failed", ESCAPE, rows, [(ESCAPE, ESCAPE)]))
        reporter.close()
    shown = stream.getvalue()
    assert "txt.exe" in shown
    assert "\x1b]" not in shown
    assert not controls_in(shown) - {"\x1b", "\r"}
    assert not controls_in((tmp_path / "log.txt").read_text(encoding="utf-8"))
