"""``runner submit-check``: every reason for which a server would refuse a file, before it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vlrun import DataError
from vlrun.cli import main
from vlrun.data.submissions import SubmissionCheck, check_submission, read_json_list
from vlrun.plugins.entries import SubmissionFormat, SubmissionRows


def read_rows(path: Path) -> SubmissionRows:
    rows = read_json_list(path)
    problems = [f"{path}: entry {n}: id is not text" for n, row in enumerate(rows) if not isinstance(row["id"], str)]
    return SubmissionRows([str(row["id"]) for row in rows], problems)


def read_ids(path: Path) -> list[str]:
    return list(json.loads(path.read_text()))


FORMAT = SubmissionFormat(
    name="toys-test",
    dataset="toys",
    splits=("test", "test-all"),
    summary="",
    reader=f"{__name__}:read_rows",
    id_reader=f"{__name__}:read_ids",
)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for split, ids in {"test": ["01", "1", "2"], "test-all": ["01", "1", "2", "3"], "val": ["7", "8"]}.items():
        (folder / f"{split}.jsonl").write_text("".join(f'{{"id": "{name}"}}\n' for name in ids))
    return folder


@pytest.fixture
def check(annotations: Path, tmp_path: Path) -> Callable[[object], SubmissionCheck]:
    def run(ids: object) -> SubmissionCheck:
        file = tmp_path / "submission.json"
        file.write_text(json.dumps([{"id": name} for name in ids] if isinstance(ids, list) else ids))
        return check_submission(file, FORMAT, annotations)

    return run


def test_a_file_with_exactly_the_ids_of_a_split_is_right(check: Callable[[object], SubmissionCheck]) -> None:
    assert check(["2", "01", "1"]).split == "test"
    assert check(["2", "01", "1"]).is_right
    assert (check(["2", "01", "1", "3"]).split, check(["2", "01", "1", "3"]).is_right) == ("test-all", True)


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        (["01", "2"], "1 of the 3 ids of 'test' are missing: 1"),
        (["01", "1", "2", "9"], "1 ids are not of 'test': 9"),
        (["01", "1", "2", "2"], "1 ids are repeated: 2"),
        ([1, "01", "2"], "entry 0: id is not text"),
        (["7", "8"], "its ids are those of split 'val'"),
        ([], "3 of the 3 ids of 'test' are missing"),
    ],
)
def test_every_reason_to_refuse_is_named(check: Callable[[object], SubmissionCheck], ids: list[str], what: str) -> None:
    problems = check(ids).problems
    assert any(what in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("text", "what"),
    [('[{"id": "01"}, {"id"', "cut off"), ('[{"id": "01"} {}]', "not readable JSON"), ("{}", "expected a JSON list")],
)
def test_what_is_no_whole_list_is_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DataError, match=what):
        read_json_list(tmp_path / "file.json")


def test_an_official_list_can_be_compared_with(tmp_path: Path) -> None:
    (tmp_path / "questions.json").write_text('["01"]')
    (tmp_path / "file.json").write_text('[{"id": "01"}]')
    assert check_submission(tmp_path / "file.json", FORMAT, None, tmp_path / "questions.json").is_right


@pytest.mark.parametrize(
    ("sizes", "expects"),
    [
        ({"test": 3, "test-all": 9}, None),
        ({"test": 4, "test-all": 3}, "the 3 ids of 'test', the server expects 4"),
        ({"test-all": 9}, None),
    ],
    ids=["whole", "a part", "unknown"],
)
def test_a_part_of_the_official_ids_proves_nothing(
    annotations: Path, tmp_path: Path, sizes: dict[str, int], expects: str | None
) -> None:
    file = tmp_path / "submission.json"
    file.write_text(json.dumps([{"id": name} for name in ("01", "1", "2")]))
    problems = check_submission(file, replace(FORMAT, sizes=sizes), annotations).problems
    assert [expects in problem for problem in problems] == ([True] if expects else [])


@pytest.mark.parametrize(("number", "right"), [(4, True), (9, True), (3, False)])
def test_an_official_list_has_the_size_of_one_of_the_splits(tmp_path: Path, number: int, right: bool) -> None:
    ids = [str(index) for index in range(number)]
    (tmp_path / "questions.json").write_text(json.dumps(ids))
    (tmp_path / "file.json").write_text(json.dumps([{"id": name} for name in ids]))
    wanted = replace(FORMAT, sizes={"test": 4, "test-all": 9})
    check = check_submission(tmp_path / "file.json", wanted, None, tmp_path / "questions.json")
    assert check.is_right is right
    assert right or "the server expects 4 or 9" in check.problems[0]


def test_without_annotations_it_says_where_they_were_looked_for(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("[]")
    with pytest.raises(DataError, match=r"--annotations.*--questions"):
        check_submission(tmp_path / "file.json", FORMAT, tmp_path / "nowhere")


def test_an_unknown_phase_names_the_installed_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit-check", str(tmp_path / "file.json"), "--for", "no-such-phase"]) == 4
    assert "no submission 'no-such-phase' is installed" in capsys.readouterr().err


def test_the_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "submissions", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)
