"""The command line itself: usage, help, and the small verbs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlrun import __version__
from vlrun.cli import main
from vlrun.cli.parser import built_in_commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("verb", [command.name for command in built_in_commands()])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: runner {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["list-plugins", "--jsn"], ["validate", "x.yaml", "-q"]], ids=str)
def test_wrong_usage_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: runner" in capsys.readouterr().err


def test_runner_alone_prints_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for command in built_in_commands():
        assert f"{command.name} " in captured.err
        assert command.summary.split()[0] in captured.err


def test_experiments_are_listed_with_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "sub").mkdir(parents=True)
    (tmp_path / "experiments" / "a.yaml").write_text("# About cats\n# and dogs.\n#\n# More.\nseed: 1\n")
    (tmp_path / "experiments" / "sub" / "b.yaml").write_text("seed: 1\n# later\n")
    assert main(["list", "experiments"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=1) == ["experiments/a.yaml", "About cats and dogs."]
    assert second.split() == ["experiments/sub/b.yaml"]
    assert main(["list", "experiments", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {"file": "experiments/a.yaml", "summary": "About cats and dogs."}


def test_runner_py_and_the_module_are_the_same_command() -> None:
    for command in (["runner.py"], ["-m", "vlrun"]):
        done = subprocess.run(
            [sys.executable, *command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == f"vlrun {__version__}"


def test_a_traceback_quotes_no_control_characters() -> None:
    raising = """
import vlrun.cli
def main():
    raise ValueError("\\x1b]0;title\\x07")
vlrun.cli.main = main
vlrun.cli.runner()
"""
    done = subprocess.run([sys.executable, "-c", raising], capture_output=True, text=True, check=False)
    assert ("Traceback" in done.stderr, "]0;title" in done.stderr) == (True, True)
    assert not {"\x1b", "\x07"} & {*done.stderr}


def test_overrides_may_stand_between_options(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "experiments" / "rosita_refcoco+.yaml")
    assert main(["validate", file, "train.epochs=2", "--print-config", "seed=3"]) == 0
    printed = capsys.readouterr().out
    assert "epochs: 2  # command line" in printed
    assert "seed: 3  # command line" in printed


def test_list_shows_components_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "reporters", "--options"]) == 0
    printed = capsys.readouterr().out
    assert "console" in printed
    assert "stream: " in printed
    assert main(["list", "reporters", "--json"]) == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} >= {"console", "jsonl", "html"}


@pytest.mark.parametrize(
    ("command", "formats"),
    [
        (["features", "build"], ["npz folder of .npz files", "gqa-hdf5 object features"]),
        (["weights", "import"], ["rosita the authors' .pkl", "hf-lxmert LXMERT of Hugging"]),
    ],
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_importers_lists_the_formats(
    command: list[str], formats: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, flag])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "--from FORMAT" in printed
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.startswith("  ")]
    assert all(any(line.startswith(wanted) for line in lines) for wanted in formats)


def test_doctor_prints_versions_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] != "missing"
    assert "vlrun" in facts["plugins"]
