"""The command line as users meet it, on the demo data: shipped files, two processes, kills, a plugin from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))
MAIN = ROOT / "experiments" / "rosita_refcoco+.yaml"
SHORT = ("train.epochs=1", "train.log_every=1", "train.workers=0", "tasks.0.dataset.limit=800")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all runs here: the demo data are generated once."""
    cache = os.environ.get("VLRUN_CACHE") or str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "VLRUN_CACHE": cache, "OMP_NUM_THREADS": "1"}


def runner(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "runner.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)


def latest(output: Path) -> Path:
    (experiment,) = output.iterdir()
    return (experiment / "latest").resolve()


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def finals(folder: Path) -> dict[tuple[str, str], float]:
    return {(row["split"], row["name"]): row["value"] for row in rows(folder, "result") if row["final"]}


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder, "step")]


@pytest.fixture(scope="session")
def unbroken(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken")
    done = runner(environment, "run", MAIN, "--demo", "--output", output, *SHORT)
    assert done.returncode == 0, done.stderr
    return latest(output)


def test_the_run_folder_says_that_it_is_a_demo_and_can_be_read_again(
    unbroken: Path, environment: dict[str, str]
) -> None:
    assert json.loads((unbroken / "status.json").read_text())["demo"] is True
    assert "demo" in (unbroken / "report.html").read_text().lower()
    report = runner(environment, "report", unbroken)
    assert report.returncode == 0, report.stderr
    assert "testA" in report.stdout
    again = runner(environment, "evaluate", unbroken, "--split", "testA", "--json")
    assert again.returncode == 0, again.stderr
    scores = {row["score"]["name"]: row["score"]["value"] for row in json.loads(again.stdout)}
    assert scores["accuracy"] == finals(unbroken)["testA", "accuracy"]
    predictions = unbroken / "predictions" / "rec_testA.jsonl"
    scored = runner(environment, "score", predictions, "--experiment", unbroken, "--split", "testA", "--json")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)[0]["value"] == scores["accuracy"]


def test_the_resolved_configuration_runs_again_and_gives_the_same(
    unbroken: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = runner(environment, "run", unbroken / "config.yaml", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses(latest(tmp_path)) == losses(unbroken)
    assert finals(latest(tmp_path)) == finals(unbroken)


def test_two_processes_evaluate_the_same_examples_once(
    unbroken: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = runner(environment, "run", MAIN, "--demo", "--nproc", "2", "--output", tmp_path, *SHORT)
    assert done.returncode == 0, done.stderr
    for split in ("val", "testA", "testB"):
        files = [folder / "predictions" / f"rec_{split}.jsonl" for folder in (unbroken, latest(tmp_path))]
        ids = [[json.loads(line)["id"] for line in file.read_text().splitlines()] for file in files]
        assert ids[0] == ids[1]
    # dropout differs from rank to rank, so the numbers are close, not equal
    assert finals(latest(tmp_path))["val", "accuracy"] == pytest.approx(finals(unbroken)["val", "accuracy"], abs=15)


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stopped_run_exits_as_the_contract_says_and_continues_bit_for_bit(
    number: signal.Signals, processes: int, unbroken: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", str(MAIN), "--demo", "--nproc", str(processes), "--output", str(tmp_path), *SHORT]
    stop_when_training(environment, arguments, tmp_path, number, expected=75)
    folder = latest(tmp_path)
    assert json.loads((folder / "status.json").read_text())["status"] == "stopped"
    assert 0 < len(losses(folder)) < len(losses(unbroken))
    done = runner(environment, *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert latest(tmp_path) == folder
    if processes == 1:
        assert losses(folder) == losses(unbroken)
        assert finals(folder) == finals(unbroken)
    else:
        assert len(losses(folder)) == len(losses(unbroken))


def test_a_killed_run_continues_from_its_last_checkpoint(
    unbroken: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", str(MAIN), "--demo", "--output", str(tmp_path), *SHORT, "train.checkpoint_every=2"]
    stop_when_training(environment, arguments, tmp_path, signal.SIGKILL, expected=-signal.SIGKILL)
    done = runner(environment, *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(latest(tmp_path)) == losses(unbroken)
    assert finals(latest(tmp_path)) == finals(unbroken)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_lost_rank_ends_the_job_as_a_distributed_failure(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", str(MAIN), "--demo", "--nproc", "2", "--output", str(tmp_path), *SHORT]
    process = start(environment, [*arguments, "train.distributed_timeout=5"])
    wait_for_steps(tmp_path, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.terminate()
        pytest.skip("this system does not list the children of a process")
    processes = [int(child) for child in children.read_text().split()]
    ranks = [child for child in processes if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(ranks[-1], number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 9, errors
    assert "Traceback" not in errors
    assert json.loads((latest(tmp_path) / "status.json").read_text())["status"] in ("failed", "running")


def test_a_plugin_from_outside_appears_and_trains(environment: dict[str, str], tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    plugin = ROOT / "examples" / "own_plugin"
    source = tmp_path / "own_plugin"
    subprocess.run(["cp", "-r", plugin, source], check=True)  # building must not write into the checkout
    subprocess.run([*install, "--target", str(site), str(source)], check=True, capture_output=True)
    with_plugin = {**environment, "PYTHONPATH": str(site)}
    listed = runner(with_plugin, "list-plugins")
    assert "vlrun-own" in listed.stdout
    assert "bag-of-words" in listed.stdout
    file = plugin / "experiment.yaml"
    done = runner(with_plugin, "run", file, "--demo", "--output", tmp_path / "runs", "train.epochs=3")
    assert done.returncode == 0, done.stderr
    folder = latest(tmp_path / "runs")
    assert losses(folder)[-1] < 0.9 * losses(folder)[0]


def test_examples_train_together_on_demo_data_of_two_plugins(environment: dict[str, str], tmp_path: Path) -> None:
    """A backbone and a task of two plugins that are not installed, beside VQA."""
    examples = ROOT / "examples"
    paths = [str(examples / "uniter"), str(examples / "snli_ve"), environment.get("PYTHONPATH", "")]
    script = (
        "import sys\nfrom importlib.metadata import EntryPoint, entry_points\nfrom vlrun.plugins import manager\n"
        "more = [EntryPoint(name, f'vlrun_{name}.plugin', 'vlrun') for name in ('uniter', 'snli_ve')]\n"
        "manager.entry_points = lambda group: [*entry_points(group=group), *more]\n"
        "from vlrun.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    words = ["run", examples / "snli_ve" / "joint.yaml", "--demo", "backbone={name: uniter}", "train.epochs=1"]
    words += ["tasks.0.dataset.limit=200", "tasks.1.dataset.limit=200", "train.workers=0", "--output", tmp_path]
    command = [sys.executable, "-c", script, *map(str, words)]
    variables = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = {(row["task"], row["split"], row["name"]): row for row in rows(latest(tmp_path), "result") if row["final"]}
    assert found["snli-ve", "dev", "accuracy"]["count"] == found["vqa", "minival", "accuracy"]["count"] == 200
    assert found["snli-ve", "test", "accuracy-neutral"]["count"] > 50
    assert found["snli-ve", "dev", "accuracy"]["protocol"]["dataset"] == "snli-ve"


def start(environment: dict[str, str], arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "runner.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_steps(output: Path, process: subprocess.Popen[str]) -> None:
    """Returns when the first losses (and, where asked for, checkpoints) of a run are on disk."""
    for _ in range(1200):
        if process.poll() is not None:
            raise AssertionError(f"ended too early: {process.communicate()[1]}")
        if any(path.stat().st_size > 5000 for path in output.rglob("metrics.jsonl")):
            return
        time.sleep(0.1)
    process.kill()
    raise AssertionError("no training step in two minutes")


def stop_when_training(
    environment: dict[str, str], arguments: list[str], output: Path, number: signal.Signals, expected: int
) -> None:
    process = start(environment, arguments)
    wait_for_steps(output, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == expected, errors
    assert "Traceback" not in errors
