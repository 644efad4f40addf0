"""What the operating system refuses is one line with the place and what to do, whatever was going on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vlrun.cli import main
from vlrun.cli import report as report_verb
from vlrun.engine.weight_files import write_imported
from vlrun.errors import DataError, NoRoomError, system_problem
from vlrun.features import writer
from vlrun.files import atomic_write, made_whole, room_for, write_json, write_text
from vlrun.interfaces.examples import RegionFeatures
from vlrun.runs.again import read_predictions


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "ask for the permission"),
        (errno.EROFS, "name a place that can be written"),
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENAMETOOLONG, "give it a shorter name"),
    ],
)
def test_every_verb_says_it_in_one_line(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr(report_verb, "run", refuse)
    assert main(["report", "."]) == 5
    said = capsys.readouterr().err
    assert said.startswith(f"DataError: /some/place: {os.strerror(number)}; ")
    assert remedy in said
    assert said.count("\n") == 1


def test_an_error_that_only_we_can_have_made_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "gone", "x")

    monkeypatch.setattr(report_verb, "run", fail)
    with pytest.raises(FileNotFoundError):
        main(["report", "."])
    assert system_problem(OSError("without a number")) is None


def test_a_store_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, environment: Any) -> None:
            self.environment = environment

        def begin(self, *, write: bool = False) -> Any:
            if write:
                raise writer.lmdb.Error("mdb_txn_commit: Input/output error")
            return self.environment.begin()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.environment, name)

    image = RegionFeatures("a", np.ones((2, 3), np.float16), np.array([[0, 0, 5, 5]] * 2, np.float32), 9, 9)
    opened = writer.lmdb.open
    monkeypatch.setattr(writer.lmdb, "open", lambda *arguments, **options: Full(opened(*arguments, **options)))
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(
        DataError, match=r"Input/output error; the disk is full: 0\.02 MB are needed next, 0\.00 MB are free"
    ):
        writer.write_store(tmp_path / "store", [image])


def weights(path: Path) -> None:
    write_imported(path.with_suffix(".safetensors"), {"a": torch.zeros(500_000)}, {"backbone": "toy"}, ())


def lines(path: Path) -> None:
    with atomic_write(path) as file:
        file.writelines("x" * 999 + "\n" for _ in range(300))


def folder(path: Path) -> None:
    with made_whole(path) as draft:
        draft.mkdir()


@pytest.mark.parametrize(
    ("write", "needed"),
    [
        (lambda path: write_text(path, "x" * 2_000_000), "2.00 MB are needed, "),
        (lambda path: write_json(path, "x" * 1_999_990), "2.00 MB are needed, "),
        (weights, "2.00 MB are needed, "),
        (lines, "more than 0.30 MB are needed, "),
        (folder, ""),
    ],
    ids=["text", "JSON", "weights", "lines", "folder"],
)
def test_what_does_not_fit_is_named_with_what_it_needs_and_what_there_is(
    write: Callable[[Path], object], needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_500_000))
    with pytest.raises(NoRoomError) as caught:
        write(tmp_path / "new")
    assert str(system_problem(caught.value)).startswith(
        f"{caught.value.filename}: No space left on device: {needed}1.50 MB are free; the disk is full: free some space"
    )
    assert Path(caught.value.filename).stem == "new"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NoRoomError, match=r"No space left on device: [0-9,.]+ MB are free") as caught,
        room_for(tmp_path / "log.txt"),
        open("/dev/full", "w") as file,
    ):
        file.write("a line\n")
    assert caught.value.filename == str(tmp_path / "log.txt")


@pytest.mark.parametrize("text", ['[{"question_id": 1, "answer": "x"}]', '\ufeff [\n{"a": 1}]'])
def test_a_file_for_a_server_is_named_as_one(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.json: a JSON list, as an evaluation server takes its results"):
        read_predictions(path)


def test_lines_that_are_no_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('\ufeff{"id": 1, "a": 2}\n3\n"x"\n{"a": 1}\n')
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert [problem.rpartition("p.jsonl:")[2][0] for problem in caught.value.problems] == ["2", "3", "4"]


def test_a_name_that_is_not_utf8_is_one_line_whatever_meets_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*arguments: object) -> int:
        os.fsdecode(b"photo-\xff.jpg").encode()
        return 0

    monkeypatch.setattr(report_verb, "run", write)
    assert main(["report", "."]) == 5
    said = capsys.readouterr().err
    assert said.startswith(
        r"DataError: 'photo-\udcff.jpg' is not UTF-8, as names and texts have to be; rename the file"
    )
    assert said.count("\n") == 1
    monkeypatch.setattr(report_verb, "run", lambda *arguments: len("ü".encode("ascii")))
    with pytest.raises(UnicodeEncodeError):
        main(["report", "."])
