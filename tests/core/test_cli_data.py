"""``runner data``: building, validating and describing annotation files, with a dataset plugin made for the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlrun.cli import main

PLUGIN = """
from pydantic import BaseModel
from vlrun import BuildReport, Builder, DataError, Entry, hookimpl
from vlrun.data.annotations import write_annotations


class Caption(BaseModel):
    id: str
    text: str


def build_lines(path, output):
    if not path.is_file():
        raise DataError(f"{path}: is not a file")
    records = [{"id": str(n), "text": line} for n, line in enumerate(path.read_text().splitlines())]
    return BuildReport({"train": write_annotations(output / "train.jsonl", records, Caption)}, ("texts are as typed",))


@hookimpl
def vlrun_datasets():
    function = "vlrun_toy:build_lines"
    builder = Builder(source="lines", summary="text file with one caption a line", function=function)
    other = Builder(source="rows", summary="the same from others", function=function)
    shared = {"config": "vlrun:DatasetConfig", "factory": "builtins:print"}
    toy = {"record": "vlrun_toy:Caption", "builders": (builder, other), "obtain": "Write one yourself"}
    return [
        Entry(name="toy", summary="a toy", **shared, **toy),
        Entry(name="bare", summary="nothing to build", **shared),
    ]
"""


@pytest.fixture(autouse=True)
def toy_dataset(install: Callable[..., None]) -> None:
    install("vlrun-toy", PLUGIN)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("a cat\na dog\n")
    return path


def test_build_writes_the_files_and_says_what(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "toy", "--from", "lines", str(source), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/train.jsonl").read_text().splitlines()[1] == '{"id": "1", "text": "a dog"}'
    assert capsys.readouterr().out == f"{tmp_path}/out/train.jsonl  2 examples\nnote: texts are as typed\n"


def test_files_of_another_source_are_replaced_only_on_request(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    build = ["data", "build", "toy", "--from"]
    assert main([*build, "lines", str(source), str(out)]) == 0
    assert main([*build, "rows", str(source), str(out)]) == 0, "the same content replaces nothing"
    assert main([*build, "lines", str(source), str(out)]) == 0
    before = (out / "train.jsonl").read_text()
    source.write_text("a cow\n")
    capsys.readouterr()
    assert main([*build, "rows", str(source), str(out)]) == 5
    message = capsys.readouterr().err
    assert f"{out / 'train.jsonl'}  (built from lines)" in message
    assert "--replace" in message
    assert (out / "train.jsonl").read_text() == before
    assert main([*build, "lines", str(source), str(out)]) == 0, "a source may replace what it has made"
    source.write_text("a horse\n")
    assert main([*build, "rows", str(source), str(out), "--replace"]) == 0
    assert "a horse" in (out / "train.jsonl").read_text()
    assert json.loads((out / "sources.json").read_text()) == {"train.jsonl": "rows"}
    assert sorted(path.name for path in tmp_path.glob(".out*")) == []


def test_files_of_an_unknown_source_are_not_replaced_either(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("mine\n")
    assert main(["data", "build", "toy", "--from", "lines", str(source), str(tmp_path / "out")]) == 5
    assert "built from an unknown source" in capsys.readouterr().err
    assert (tmp_path / "out" / "train.jsonl").read_text() == "mine\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    assert main(["data", "build", "toy", "--from", "lines", str(tmp_path), str(tmp_path / "out")]) == 5
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_problem_of_what_is_built_names_the_users_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").touch()
    assert main(["data", "build", "toy", "--from", "lines", str(tmp_path / "empty.txt"), str(tmp_path / "out")]) == 5
    assert f"{tmp_path / 'out' / 'train.jsonl'}: there is nothing to write" in capsys.readouterr().err


def test_an_unknown_source_lists_those_that_exist(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "toy", "--from", "official", str(source), "out"]) == 2
    error = capsys.readouterr().err
    assert "dataset 'toy' cannot be built from 'official'" in error
    assert "lines: text file with one caption a line" in error


def test_a_dataset_without_builders_says_so(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "bare", "--from", "official", str(source), "out"]) == 2
    assert "its sources are: none" in capsys.readouterr().err


def test_an_unknown_dataset_is_a_plugin_error(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "toyy", "--from", "lines", str(source), "out"]) == 4
    assert "Did you mean 'toy'?" in capsys.readouterr().err


def test_a_source_path_that_is_not_there_is_a_data_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "toy", "--from", "lines", str(tmp_path / "none"), "out"]) == 5
    assert "none does not exist; 'lines' reads text file with one caption a line" in capsys.readouterr().err


def test_a_builders_problem_is_a_data_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "toy", "--from", "lines", str(tmp_path), "out"]) == 5
    assert "is not a file" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", "train.jsonl"], ids=["folder", "file"])
def test_a_sound_file_validates(given: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "build", "toy", "--from", "lines", str(source), str(tmp_path / "out")])
    capsys.readouterr()
    assert main(["data", "validate", "toy", str(tmp_path / "out" / given)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/train.jsonl: ok\n"


def test_validate_names_line_and_field_of_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "0", "text": "a"}\n{"id": "1"}\n{"id": "0", "text": "b"}\n')
    assert main(["data", "validate", "toy", str(path)]) == 5
    captured = capsys.readouterr()
    assert captured.out == f"{path}: 2 problems\n"
    assert captured.err.splitlines() == [
        f"{path}:2: text: field required",
        f"{path}:3: id: '0' is already the id of line 1",
    ]


def test_validate_shows_the_first_problems_of_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("{}\n" * 100)
    assert main(["data", "validate", "toy", str(path)]) == 5
    captured = capsys.readouterr()
    assert captured.out == f"{path}: 200 problems\n"
    assert captured.err.splitlines()[-1] == "... and 180 more"


def test_an_empty_folder_has_nothing_to_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "validate", "toy", str(tmp_path)]) == 5
    assert "no .jsonl file in this folder" in capsys.readouterr().err


def test_the_schema_of_a_line_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "schema", "toy"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["id", "text"]


def test_a_dataset_without_schema_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "schema", "bare"]) == 2
    assert "publishes no schema" in capsys.readouterr().err


def test_sources_are_listed_with_where_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "sources", "toy"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "toy: Write one yourself",
        "    --from lines: text file with one caption a line",
        "    --from rows: the same from others",
    ]


def test_sources_in_json_hold_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "sources", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"dataset": "toy", "source": "lines", "summary": "text file with one caption a line"} in rows


def test_a_build_shows_its_progress(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlrun.reporting.progress._PLAIN_SECONDS", 0.0)
    assert main(["data", "build", "toy", "--from", "lines", str(source), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == "writing train.jsonl: 0 of 2\n"
