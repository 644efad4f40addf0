"""``runner run --seeds``: one run for each seed, what a stop leaves, and the means that are shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_world as toy
from toy_runs import stop_after_step

from vlrun.cli import main
from vlrun.cli.run_seeds import parse_seeds
from vlrun.engine import launch as launching
from vlrun.engine.run_folder import RunFolder
from vlrun.errors import StoppedOnRequest, UsageError

SHORT = "train.epochs=1"


@pytest.fixture
def file(world: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., None]) -> str:
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    roots = f"data_root: {world / 'data'}\nruns_root: {world / 'runs'}\n"
    (world / "word.yaml").write_text(roots + toy.EXPERIMENT)
    monkeypatch.chdir(world)
    return "word.yaml"


def runs(name: str = "word") -> list[tuple[int, str]]:
    """Seed and status of each run, by seed: several may have started within a second."""
    found = []
    for folder in sorted(Path("runs", name).glob("[0-9]*")):
        config = (folder / "config.yaml").read_text()
        seed = next(int(line.split()[1]) for line in config.splitlines() if line.startswith("seed:"))
        found.append((seed, RunFolder(folder).read_status()["status"]))
    return sorted(found)


def repeats(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["report", "runs", "--json"]) == 0
    content: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["repeats"]
    return content


def test_each_seed_has_a_run_and_each_score_a_mean(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", file, SHORT, "--seeds", "3"]) == 0
    printed = capsys.readouterr().out
    first = runs()[0][0]
    assert runs() == [(first + number, "done") for number in range(3)]
    scores = repeats(capsys)
    assert [(score["split"], score["seeds"]) for score in scores] == [("val", 3), ("test", 3)]
    for score in scores:
        values = list(score["values"].values())
        assert score["mean"] == pytest.approx(statistics.fmean(values))
        assert score["standard_deviation"] == pytest.approx(statistics.stdev(values))
        assert f"{score['mean']:.2f}" in printed
    assert len({value for score in scores for value in score["values"].values()}) > 1, "the seed makes a difference"


def test_a_stop_is_resumed_where_it_was(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", file, SHORT, "--seeds", "7,5"]) == 0
    assert runs() == [(5, "done"), (7, "done")]
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        assert main(["run", file, SHORT, "--seeds", "5,9,8", "--resume"]) == StoppedOnRequest.exit_status
    assert runs() == [(5, "done"), (7, "done"), (9, "stopped")]
    assert main(["run", file, SHORT, "--seeds", "5,9,8", "--resume"]) == 0
    assert runs() == [(5, "done"), (7, "done"), (8, "done"), (9, "done")]


def test_stages_run_in_order_with_each_seed(file: str) -> None:
    text = Path(file).read_text().replace("{name: toy}", "{name: toy, weights: 'run:word'}")
    Path("next.yaml").write_text(text)
    assert main(["run", file, "next.yaml", SHORT, "--seeds", "2"]) == 0
    assert len(runs("word")) == 2
    sources = [
        json.loads((path / "data.json").read_text())["weights"]["path"]
        for path in sorted(Path("runs/next").glob("[0-9]*"))
    ]
    assert [Path(each).parent.parent for each in sources] == sorted(Path("runs/word").absolute().glob("[0-9]*"))


def test_runs_of_another_recipe_are_not_put_together(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, rate in ((1, "0.01"), (2, "0.02"), (3, "0.02")):
        assert main(["run", file, SHORT, f"seed={seed}", f"train.learning_rate={rate}"]) == 0
    assert [set(score["values"]) for score in repeats(capsys)] == [{"2", "3"}, {"2", "3"}]


def test_each_seed_is_launched_with_its_own_command(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []

    def launch(command: Any, arguments: Sequence[str], processes: int) -> int:
        commands.append(arguments)
        return 0 if len(commands) == 1 else 7

    monkeypatch.setattr(launching, "launch", launch)
    assert main(["run", "--nproc", "2", "--seeds", "1,4", file, SHORT]) == 7
    assert commands == [["run", "--nproc", "2", file, SHORT, f"seed={seed}"] for seed in (1, 4)]


def test_a_seed_among_the_overrides_is_where_they_count_from(file: str) -> None:
    assert main(["run", file, "seed=5", SHORT, "--seeds", "2"]) == 0
    assert runs() == [(5, "done"), (6, "done")]


@pytest.mark.parametrize("damage", ["seed: null", "seed: five", ""])
def test_a_run_that_tells_no_seed_is_reported_alone(file: str, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    assert main(["run", file, SHORT, "--seeds", "1,2,3"]) == 0
    config = next(path for path in Path("runs/word").glob("[0-9]*/config.yaml") if "seed: 3" in path.read_text())
    config.write_text(config.read_text().replace("seed: 3", damage))
    assert [set(score["values"]) for score in repeats(capsys)] == [{"1", "2"}, {"1", "2"}]


@pytest.mark.parametrize("text", ["1", "0", "-3", "three", "1,1", "1,", "4,-1"])
def test_seeds_are_a_number_of_them_or_a_list(text: str) -> None:
    with pytest.raises(UsageError, match="two at least, or different seeds"):
        parse_seeds(text, 888)


def test_seeds_count_from_that_of_the_experiment() -> None:
    assert parse_seeds("3", 888) == [888, 889, 890]
    assert parse_seeds("888,1,2", 0) == [888, 1, 2]


def test_a_batch_system_runs_one_seed_at_a_time(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", file, "--seeds", "3", "--slurm"]) == 2
    assert "several seeds in one job" in capsys.readouterr().err
