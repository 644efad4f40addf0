"""The tutorial is a transcript: every command in it runs here, and what it shows is what comes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from vlrun.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
HOME = "/home/me/vl"
"""What the page calls the folder in which the commands run."""

pytestmark = [pytest.mark.slow, pytest.mark.golden, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Command:
    """One line after ``$``, what the page shows of its output, and its exit status."""

    words: list[str]
    shown: list[str]
    status: int
    line: int


def commands() -> list[Command]:
    found: list[Command] = []
    inside = False
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            text, _, comment = line[2:].partition("  # exit status ")
            found.append(Command(shlex.split(text), [], int(comment or 0), number))
        elif inside and found and line.strip() not in ("", "..."):
            found[-1].shown.append(line)
    return found


def continued(words: list[str], settings: dict[str, str]) -> list[str]:
    """The words with ``$NAME`` replaced, as a shell does it."""
    filled: list[str] = []
    for word in words:
        filled += shlex.split(settings[word[1:]]) if word.startswith("$") else [word]
    return filled


@pytest.fixture
def work(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments, and the old folders of two projects."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    shutil.copytree(golden / "rosita/mini", tmp_path / "old/rosita")
    shutil.copytree(golden / "lxmert_s/mini_data", tmp_path / "old/lxmert")
    (tmp_path / "old/words").mkdir()
    shutil.copy(golden / "lxmert_s/tiny_vocab.txt", tmp_path / "old/words/vocab.txt")
    monkeypatch.chdir(tmp_path)
    for name in ("VLRUN_DATA", "VLRUN_RUNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_walk_of_the_tutorial(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, str] = {}
    for command in commands():
        where = f"docs/tutorial.md:{command.line}"
        name, equals, value = command.words[-1].partition("=")
        if command.words[0] == "export":
            monkeypatch.setenv(name, value.replace(HOME, str(work)))
        elif equals and len(command.words) == 1:
            settings[name] = value
        else:
            assert command.words[0] == "runner", where
            status = main(continued(command.words[1:], settings))
            captured = capsys.readouterr()
            output = (captured.out + captured.err).replace(str(work), HOME)
            assert status == command.status, f"{where}: exit status {status}\n{output}"
            missing = [line for line in command.shown if line.rstrip() not in map(str.rstrip, output.splitlines())]
            assert not missing, f"{where}: not in the output: {missing}\n{output}"

    statuses = {path: json.loads(path.read_text()) for path in work.glob("runs/*/*/status.json")}
    done = {status["experiment"]: path for path, status in statuses.items() if status["status"] == "done"}
    assert done.keys() == with_files()
    for name, path in done.items():
        records = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        assert {"step", "result"} <= {record["kind"] for record in records}, name
        assert not statuses[path]["demo"], name


def with_files() -> set[str]:
    """Shipped experiments that train and of whose annotations and features the two trees have something."""
    there = {"vqav2 coco-bua36", "refcoco coco-bua36", "coco-retrieval coco-bua36", "vqav2 coco-obj36"}
    there |= {"gqa gqa-obj36", "nlvr2 nlvr2-obj36", "flickr30k flickr30k-obj36"}
    found = set()
    for path in (ROOT / "experiments").glob("[!d]*.yaml"):
        text = path.read_text()
        if "      pictures: " in text:  # the trees have no pictures
            continue
        datasets = re.findall(r"^    dataset:\n      name: (\S+)", text, re.MULTILINE)
        stores = re.findall(r"^      features: features/(\S+)", text, re.MULTILINE)
        has = {f"{dataset} {store}" for dataset, store in zip(datasets, stores, strict=True)} & there
        if has and "train: []" not in text:
            found.add(path.stem)
    return found
