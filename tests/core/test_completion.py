"""Shells complete verbs, experiment files, runs, components and dotted keys, and nothing heavy is imported for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from vlrun.cli import main
from vlrun.cli.completion import EXPERIMENT, SHELLS
from vlrun.cli.new_plugin import KINDS
from vlrun.cli.option_names import option_names
from vlrun.config.components import config_model
from vlrun.config.experiment import Experiment
from vlrun.config.problems import _model_in
from vlrun.plugins.manager import create_plugins

ROOT = Path(__file__).resolve().parents[2]
FILE = "experiments/lxmert_s_vqa.yaml"
HEAVY = {"pydantic", "numpy", "torch", "lmdb", "tokenizers"}

ASK = """
import os, sys
from vlrun.cli import main

leave = os._exit
def list_modules_and_leave(status):
    print(*sys.modules, flush=True)
    leave(status)

os._exit = list_modules_and_leave  # argcomplete ends the process with it
main()
"""

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """``complete(line)`` asks as bash does, and refuses an answer that took a heavy import."""

    def ask(line: str, cwd: Path = ROOT, **variables: str) -> list[str]:
        answers = tmp_path / "answers"
        asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answers)}
        asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            cwd=cwd,
            env={**os.environ, **asked, **variables},
            check=True,
            capture_output=True,
            text=True,
        )
        modules = set(done.stdout.split())
        assert "argcomplete" in modules, "a list of all modules"
        assert not modules & HEAVY
        assert not {name for name in modules if name.startswith("vlrun_") and "config" in name}
        return answers.read_text().splitlines()

    return ask


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("runner ", ["run", "evaluate", "list-plugins", "completion"]),
        ("runner list-p", ["list-plugins"]),
        ("runner run experiments/lxmert_s_v", [FILE]),
        ("runner run ", [FILE, "experiments/multitask/rosita_vqa+refcoco+.yaml"]),
        (f"runner run {FILE} --pro", ["--profile"]),
        (f"runner run {FILE} train.ep", ["train.epochs="]),
        (f"runner run {FILE} backbone.drop", ["backbone.dropout="]),
        (f"runner run {FILE} train.optimizer.w", ["train.optimizer.weight_decay="]),
        (f"runner validate {FILE} tasks.0.dataset.li", ["tasks.0.dataset.limit="]),
        (f"runner run {FILE} train.epochs=2 --demo --nproc 2 tasks.0.loss_", ["tasks.0.loss_weight="]),
        (f"runner run {FILE} backbone.name=lx", ["backbone.name=lxmert", "backbone.name=lxmert-s"]),
        (f"runner run {FILE} tasks.0.name=g", ["tasks.0.name=gqa"]),
        (f"runner run {FILE} train.optimizer.name=be", ["train.optimizer.name=bert-adam"]),
        (f"runner run {FILE} train.schedule.name=co", ["train.schedule.name=constant", "train.schedule.name=cosine"]),
        (f"runner run {FILE} tasks.0.dataset.name=refcoco+", ["tasks.0.dataset.name=refcoco+"]),
        ("runner list b", ["backbones"]),
        ("runner data build vq", ["vqav2"]),
        ("runner weights import --from ro", ["rosita"]),
        ("runner features build --from np", ["npz"]),
        ("runner submit-check FILE --for gqa-t", ["gqa-testdev"]),
        (f"runner score FILE --experiment {FILE} --split mini", ["minival"]),
    ],
)
def test_what_can_stand_under_the_cursor_is_offered(complete: Complete, line: str, some: list[str]) -> None:
    found = complete(line)
    begun = line.rpartition(" ")[2]
    assert set(some) <= set(found)
    assert all(word.startswith(begun) for word in found)


def test_every_kind_of_new_plugin_is_offered(complete: Complete) -> None:
    assert sorted(complete("runner new-plugin mine --kind ")) == sorted(KINDS)
    assert complete("runner new-plugin mine --kind sch") == ["schedule"]


def test_the_value_of_an_option_is_no_key(complete: Complete) -> None:
    assert complete(f"runner run {FILE} --nproc tra") == []
    assert complete(f"runner run {FILE} train.epochs=") == []


def test_a_joint_experiment_offers_the_options_of_every_task(complete: Complete) -> None:
    line = "runner run experiments/multitask/rosita_vqa+refcoco+.yaml tasks."
    found = complete(line)
    assert {"tasks.0.switch_epoch=", "tasks.1.iou_threshold=", "tasks.1.dataset.limit="} <= set(found)
    assert "tasks.0.iou_threshold=" not in found


def test_runs_are_offered_by_name_with_their_tasks_and_splits(complete: Complete, tmp_path: Path) -> None:
    run = tmp_path / "kept" / "toy" / "20260101-000000-abcdef"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        "backbone: {name: rosita}\ntasks:\n- {name: vqa, label: asked, dataset: {name: vqav2, evaluate: [minival]}}\n"
    )
    found = complete("runner evaluate ", cwd=tmp_path, VLRUN_RUNS="kept")
    assert {"kept/toy", "kept/toy/20260101-000000-abcdef"} <= set(found)
    assert complete("runner evaluate kept/toy --task ", cwd=tmp_path) == ["asked"]
    assert complete("runner predict kept/toy --split ", cwd=tmp_path) == ["minival"]
    assert "backbone.dropout=" in complete("runner evaluate kept/toy backbone.", cwd=tmp_path)


def test_a_file_that_cannot_be_read_still_has_the_keys_of_every_experiment(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "torn.yaml").write_text("backbone: {name: [")
    for file in ("torn.yaml", "missing.yaml"):
        found = complete(f"runner run {file} ", cwd=tmp_path)
        assert {"train.epochs=", "backbone.name=", "tasks.0.dataset.limit="} <= set(found)


def test_the_verb_of_a_plugin_completes_like_our_own(
    install: Callable[..., None], complete: Complete, tmp_path: Path
) -> None:
    source = """
        from vlrun import Command, hookimpl

        def add_arguments(parser):
            parser.add_argument("experiment", metavar="EXPERIMENT")
            parser.add_argument("--hens", choices=["brown", "white"])

        def run(arguments):
            return 0

        @hookimpl
        def vlrun_commands():
            return [Command(name="count-hens", summary="count the hens", module="vlrun_hens")]
    """
    install("vlrun-hens", source)
    path = os.pathsep.join([str(tmp_path / "site-packages"), os.environ.get("PYTHONPATH", "")])
    assert complete("runner count", PYTHONPATH=path) == ["count-hens"]
    assert complete("runner count-hens x.yaml --hens b", PYTHONPATH=path) == ["brown"]
    assert FILE in complete("runner count-hens experiments/lxmert_s", PYTHONPATH=path)


def test_a_verb_that_is_broken_completes_to_nothing(
    install: Callable[..., None], complete: Complete, tmp_path: Path
) -> None:
    source = """
        from vlrun import Command, hookimpl

        @hookimpl
        def vlrun_commands():
            return [Command(name="count-hens", summary="count the hens", module="vlrun_hens.nowhere")]
    """
    install("vlrun-hens", source)
    path = os.pathsep.join([str(tmp_path / "site-packages"), os.environ.get("PYTHONPATH", "")])
    assert complete("runner count-hens --", PYTHONPATH=path) == ["--help"]


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A folder with a ``runner`` that a shell can call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "runner"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vlrun "$@"\n')
    script.chmod(0o755)
    return folder


DRIVERS = {
    "bash": """
        eval "$(runner completion bash)"
        COMP_LINE="$LINE" COMP_POINT=${#LINE} COMP_TYPE=9
        _python_argcomplete runner
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -Uz compinit is-at-least; compinit -u -d "$HOME/dump"
        eval "$(runner completion zsh)"
        _describe() { print -rl -- ${(P)2} }
        BUFFER="$LINE" CURSOR=${#LINE} words=(${(z)LINE})
        _python_argcomplete
    """,
    "fish": 'runner completion fish | source; complete -C "$LINE"',
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("runner list-", ["list-plugins"]),
        ("runner run experiments/lxmert_s_vq", [FILE]),
        (f"runner run {FILE} backbone.drop", ["backbone.dropout="]),
        (f"runner run {FILE} backbone.name=ros", ["backbone.name=rosita"]),
    ],
    ids=["verb", "file", "key", "backbone"],
)
def test_the_shell_itself_completes(shell: str, line: str, words: list[str], runner: Path, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environment = {**os.environ, "PATH": f"{runner}:{os.environ['PATH']}", "LINE": line, "HOME": str(tmp_path)}
    quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *quiet, "-c", DRIVERS[shell]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    found = [re.split("[:\t]", word)[0].rstrip() for word in done.stdout.splitlines() if word]  # without explanation
    # bash takes what follows the last character that breaks words: it has written the rest itself
    wanted = [word.rpartition("=")[2] if shell == "bash" and "=" in line else word for word in words]
    assert found == wanted, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_verb_prints_what_a_shell_reads(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert "_ARGCOMPLETE" in printed
    assert "runner" in printed


def names_by_pydantic(model: type[BaseModel]) -> set[str]:
    """What ``option_names`` reads from the source, by asking the model; of a union the first member alone."""
    names = set()
    for name, field in model.model_fields.items():
        names.add(name)
        inner = _model_in(field.annotation)
        section = f"{name}.*" if "list[" in str(field.annotation) else name
        names |= {f"{section}.{option}" for option in names_by_pydantic(inner)} if inner else set()
    return names


def models() -> list[Any]:
    plugins = create_plugins()
    kinds = ("backbone", "task", "dataset", "metric", "reporter")
    found = [(entry.config, config_model(kind, entry)) for kind in kinds for entry in plugins.entries(kind)]
    return [(EXPERIMENT, Experiment), *found]


@pytest.mark.parametrize(("path", "model"), models(), ids=lambda value: value if isinstance(value, str) else "")
def test_names_read_from_the_source_are_those_of_the_model(path: str, model: type[BaseModel]) -> None:
    found = option_names(path)
    assert names_by_pydantic(model) <= set(found)
    assert {name for name in found if "." not in name} == set(model.model_fields)


def test_names_of_what_is_not_there_are_none() -> None:
    assert option_names("vlrun_nobody.config:Net") == []
    assert option_names("vlrun.config.base:NoSuchConfig") == []
