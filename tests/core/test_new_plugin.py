"""``runner new-plugin``: each kind is linted, installs, passes its own tests, which notice mistakes, and runs."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlrun.cli import main
from vlrun.cli.new_plugin import KINDS
from vlrun.cli.parser import make_parser
from vlrun.plugins.manager import HOOKS
from vlrun.testing import StubBackbone, check_backbone, check_plugin

ROOT = Path(__file__).resolve().parents[2]
LONGEST = "abcdefghi-abcdefghi-abcdefgh"

MISTAKES = {  # kind -> (file, what is there, what is there instead, the test that notices)
    "backbone": ("backbone.py", " * encoding.text_mask[..., None]", "", "test_the_backbone_keeps_its_promises"),
    "task": ("task.py", 'targets["known"]).sum()', 'targets["known"]).mean()', "test_the_task_keeps_its_promises"),
    "dataset": ("dataset.py", "from vlrun import", "import vlrun.engine.ranks\nfrom vlrun import", "test_only_public"),
    "metric": ("metric.py", "        if problems:", "        if not problems:", "test_the_score_is_the_mean"),
    "reporter": ("reporter.py", '.open("a"', '.open("w"', "test_a_continued_run_adds_to_the_same_file"),
    "optimizer": (
        "optimizer.py",
        "self.state[parameter]",
        'vars(self).setdefault("kept", {}).setdefault(parameter, {})',
        "test_the_optimiser_keeps_its_promises",
    ),
    "schedule": ("schedule.py", "number = step + 1", "number = step", "test_the_rate_rises_in_a_straight_line"),
    "callback": ("callback.py", ".norm()", ".sum()", "test_norms_are_those_of_each_part"),
    "command": ("command.py", "dict.fromkeys(", "list(", "test_each_split_is_counted_once"),
    "detector": (
        "detector.py",
        "(left, top, right, bottom)",
        "(top, left, bottom, right)",
        "test_regions_are_the",
    ),
    "feature-format": ("source.py", "next=(row + 1,)", "next=(row,)", "test_a_build_that_was_interrupted"),
    "weight-format": ("checkpoint.py", "list(answers)}}", "sorted(answers)}}", "test_the_answers_come_in_the_order"),
    "submission": ("submission.py", "enumerate(lines, 2)", "enumerate(lines)", "test_wrong_lines_are_named"),
    "download": ("plugin.py", 'name=f"{split}.json"', 'name=f"{split}.zip"', "test_every_address_ends_with"),
    "demo-source": ("demo.py", "phrases.count(phrase) == 1", "phrases", "test_objects_that_look_alike"),
    "demo-data": ("world.py", "PLACES.index(found.box), COLOURS", "0, COLOURS", "test_every_object_has_a_region"),
}
MORE_MISTAKES = {
    "backbone": ("backbone.py", ".flip(-1)", "", "test_boxes_reach_the_network_as_shares_of_the_image"),
    "metric": ("metric.py", "if not _is_box(box)", "if box is False", "test_what_cannot_be_scored_is_refused"),
    "task": ("task.py", ".masked_fill(~output.region_mask, lowest)", "", "test_padding_is_never_chosen"),
    "dataset": ("dataset.py", "record.height, record.width", "record.width, record.height", "test_every_row_becomes"),
    "reporter": ("plugin.py", "Reporter", "Writer", "test_every_path_that_the_plugin_names_leads_somewhere"),
    "optimizer": ("optimizer.py", '-group["lr"]', "-0.1", "test_the_optimiser_keeps_its_promises"),
    "schedule": ("schedule.py", "length.learning_rate *", "2 * length.learning_rate *", "test_the_schedule_keeps_its"),
    "callback": ("callback.py", "and name.startswith", "or name.startswith", "test_a_part_that_takes_no_part"),
    "command": ("plugin.py", ".command", ".commands", "test_every_path_that_the_plugin_names_leads_somewhere"),
    "detector": ("detector.py", "// (256 // LEVELS)", "% LEVELS", "test_features_are_the_shares_of_each_level"),
    "feature-format": ("source.py", "self._features[row]", "self._features[0]", "test_every_image_comes_with_its_own"),
    "weight-format": (
        "checkpoint.py",
        "    if unknown:",
        "    if not ours:",
        "test_a_tensor_that_is_not_known",
    ),
    "submission": ("submission.py", "if not answer.strip()", "if answer is None", "test_wrong_lines_are_named"),
    "download": ("plugin.py", '"my-annotations/testB.json",', '"testB.json",', "test_what_nobody_misses"),
    "demo-source": ("demo.py", "x2 - x1", "x2", "test_what_is_written_becomes_examples_of_every_split"),
    "demo-data": (
        "world.py",
        "train_wordpiece([",
        "train_wordpiece(['x' for _ in ''] and [",
        "test_its_words",
    ),
}


def new_plugin(name: str, kind: str, into: Path) -> Path:
    assert main(["new-plugin", name, "--kind", kind, "--into", str(into)]) == 0
    return into / f"vlrun-{name}"


def command(
    *words: str | Path, cwd: Path, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python with these words; what lies in the folder ``path`` counts as installed."""
    paths = [*([str(path)] if path else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **variables}
    words = (sys.executable, *map(str, words))
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One plugin of each kind; in ``site`` all lie as pip installs them, the first one by pip itself."""
    folder = tmp_path_factory.mktemp("plugins")
    first, *others = [new_plugin(f"my-{kind}", kind, folder) for kind in KINDS]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--target", "site"]
    done = command("-m", "pip", "install", *options, first, cwd=folder)
    assert done.returncode == 0, done.stderr
    for plugin in others:
        lay_out(plugin, folder / "site")
    return folder


def lay_out(plugin: Path, site: Path) -> None:
    """Puts a plugin where ``pip install --target`` would, which takes a second for each."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    ((name, module),) = project["entry-points"]["vlrun"].items()
    package = module.partition(".")[0]
    shutil.copytree(plugin / package, site / package)
    facts = site / f"{package}-{project['version']}.dist-info"
    facts.mkdir()
    required = "".join(f"Requires-Dist: {each}\n" for each in project["dependencies"])
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{required}"
    (facts / "METADATA").write_text(about)
    (facts / "entry_points.txt").write_text(f"[vlrun]\n{name} = {module}\n")


def outcomes(folder: Path, site: Path) -> tuple[int, set[str]]:
    """How many tests of the plugins passed with what is installed in ``site``, and which failed."""
    tests = [path / "tests" for path in sorted(folder.glob("vlrun-*"))]
    done = command("-m", "pytest", "-q", "-rf", "--tb=no", "-p", "no:cacheprovider", *tests, cwd=folder, path=site)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert "error" not in done.stdout.splitlines()[-1], done.stdout
    return int(passed[1]) if passed else 0, set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))


def test_the_tests_of_every_kind_pass(folder: Path) -> None:
    passed, failed = outcomes(folder, folder / "site")
    assert not failed
    assert passed > 8 * len(KINDS)


@pytest.mark.parametrize("mistakes", [MISTAKES, MORE_MISTAKES], ids=["one", "another"])
def test_the_tests_of_every_kind_notice_a_mistake(
    folder: Path, tmp_path: Path, mistakes: Mapping[str, tuple[str, str, str, str]]
) -> None:
    shutil.copytree(folder / "site", tmp_path / "site")
    for kind, (file, right, wrong, _) in mistakes.items():
        path = tmp_path / "site" / f"vlrun_my_{kind.replace('-', '_')}" / file
        text = path.read_text()
        assert right in text
        path.write_text(text.replace(right, wrong))
    _, failed = outcomes(folder, tmp_path / "site")
    missed = {kind: test for kind, (*_, test) in mistakes.items() if not any(name.startswith(test) for name in failed)}
    assert not missed


def test_every_kind_is_listed_and_every_path_in_it_leads_somewhere(folder: Path) -> None:
    done = command(ROOT / "runner.py", "list-plugins", "--check", "--json", cwd=folder, path=folder / "site")
    assert done.returncode == 0, done.stderr
    records = {record["name"]: record["offers"] for record in json.loads(done.stdout)}
    for kind in KINDS:
        assert records[f"my-{kind}"][kind.replace("-", " ")] == [f"my-{kind}"]
    assert records["my-task"]["metric"] == ["my-task-iou"]
    assert records["my-demo-data"].keys() == {"dataset", "demo data", "demo source"}


@pytest.mark.slow
def test_every_kind_runs_its_experiment_on_demo_data(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom vlrun.cli import main\n"
        "for file in sys.argv[1:]: assert main(['run', file, *{}, *(({}) if 'callback' in file else ())]) == 0"
    )
    options = ["--demo", "--output", str(tmp_path / "runs"), "train.epochs=1", "tasks.0.dataset.limit=64"]
    options += ["train.workers=0", "train.log_every=1"]
    kinds = ("backbone", "task", "dataset", "metric", "reporter", "demo-source", "demo-data")
    kinds += ("callback",)  # with what only trains
    trained = ["train.optimizer={name: my-optimizer, weight_decay: 0.1}", "train.learning_rate=1e-4"]
    trained.append("train.schedule={name: my-schedule, warmup_epochs: 0.5}")
    files = [folder / f"vlrun-my-{kind}" / "experiment.yaml" for kind in kinds]
    cache = os.environ.get("VLRUN_CACHE") or str(tmp_path / "cache")
    words = ("-c", script.format(options, trained), *files)
    done = command(*words, cwd=tmp_path, path=folder / "site", VLRUN_CACHE=cache)
    assert done.returncode == 0, done.stderr

    def results(kind: str) -> dict[str, Any]:
        lines = (tmp_path / "runs" / f"my-{kind}" / "latest" / "metrics.jsonl").read_text().splitlines()
        rows = [row for line in lines if (row := json.loads(line))["kind"] == "result" and row["final"]]
        return {row["name"]: row for row in rows if row["split"] == "val"}

    assert results("backbone")["accuracy"]["count"] == 64
    assert results("task").keys() == {"mean-iou"}
    assert results("dataset")["accuracy"]["protocol"]["dataset"] == "my-dataset"
    assert results("demo-source")["accuracy"]["count"] == results("demo-data")["accuracy"]["count"] == 64
    assert results("metric").keys() == {"accuracy", "accuracy-by-referent", "oracle", "mean-iou"}
    lines = (tmp_path / "runs" / "my-callback" / "latest" / "metrics.jsonl").read_text().splitlines()
    assert '"norm-backbone"' in next(line for line in lines if '"kind": "step"' in line)
    header = (tmp_path / "runs" / "my-callback" / "latest" / "header.json").read_text()
    assert "my-optimizer" in header
    assert "my-schedule" in header
    counted = command(
        ROOT / "runner.py",
        "my-command",
        tmp_path / "runs" / "my-callback" / "latest" / "config.yaml",
        cwd=tmp_path,
        path=folder / "site",
    )
    assert counted.stdout.splitlines()[1].startswith("rec  val  "), counted.stderr
    table = (tmp_path / "runs" / "my-reporter" / "latest" / "scores.csv").read_text().splitlines()
    assert any(line.startswith("1,2,rec,val,True,accuracy,") for line in table)


def test_every_kind_is_linted_and_formatted_whatever_its_name(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for name in ("a", LONGEST):
        for kind in KINDS:
            new_plugin(name, kind, tmp_path / name / kind)
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    rules = ["--select", ",".join(ours["select"]), "--ignore", ",".join(ours["ignore"])]
    for_tests = ["--per-file-ignores=**/command.py:T201"]  # verbs print
    for_tests += [f"--per-file-ignores=**/tests/**:{rule}" for rule in ours["per-file-ignores"]["tests/**"]]
    for words in (["check"], ["check", *rules, *for_tests], ["format", "--check"]):
        done = command("-m", "ruff", *words, "--no-cache", ".", cwd=tmp_path)
        assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.rglob("*.py"))) > 10 * len(KINDS)


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """``importable(folder)`` puts a folder on sys.path; its packages are forgotten afterwards."""
    before = set(sys.modules)

    def add(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()

    yield add
    for name in set(sys.modules) - before:
        if name.startswith("vlrun_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("backbone", "backbone"), ("task", "task"), ("annotated", "dataset"), ("metric", "metric"), ("none", "reporter")],
)
def test_a_name_may_be_a_word_of_the_core_or_of_python(
    name: str, kind: str, tmp_path: Path, importable: Callable[[Path], None]
) -> None:
    folder = new_plugin(name, kind, tmp_path)
    importable(folder)
    check_plugin(f"vlrun_{name}.plugin")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My_Net", "begin with a letter. Did you mean 'my-net'?"),
        ("../escape", "Did you mean 'escape'?"),
        ("a--b", "Did you mean 'a-b'?"),
        ("2d", "use small letters, digits and single dashes, and begin with a letter\n"),
        ("größe", "use small letters"),
        ("", "use small letters"),
        ("net\n", "Did you mean 'net'?"),
        ("vlrun-net", "leave out vlrun-: the distribution is called vlrun-NAME anyway. Did you mean 'net'?"),
        ("true", "in YAML this word is no text"),
        ("null", "in YAML this word is no text"),
        (f"{LONGEST}i", "use 28 characters at most"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-plugin", name, "--kind", "task", "--into", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("rosita", "backbone", "backbone 'rosita' is offered by vlrun-rosita "),
        ("console", "reporter", "reporter 'console' is offered by vlrun "),
        ("rec", "metric", "vlrun-rec "),
        ("taken", "task", "metric 'taken-iou' is offered by vlrun-other 1.0, which is installed; take another name"),
        ("local", "task", "a package vlrun_local is installed; take another name"),
    ],
)
def test_a_name_that_is_in_use_is_refused(
    name: str,
    kind: str,
    message: str,
    tmp_path: Path,
    install: Callable[..., None],
    importable: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = 'Entry(name="taken-iou", summary="", config="vlrun:MetricConfig", factory="builtins:print")'
    install(
        "vlrun-other", f"from vlrun import Entry, hookimpl\n\n@hookimpl\ndef vlrun_metrics():\n    return [{entry}]\n"
    )
    (tmp_path / "path" / "vlrun_local").mkdir(parents=True)
    importable(tmp_path / "path")
    assert main(["new-plugin", name, "--kind", kind, "--into", str(tmp_path / "new")]) == 4
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_nothing_that_is_there_is_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vlrun-one").mkdir()
    (tmp_path / "vlrun-two").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for name, into in (("one", tmp_path), ("two", tmp_path), ("three", tmp_path / "file")):
        assert main(["new-plugin", name, "--kind", "metric", "--into", str(into)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(" e")[2][:14] for line in errors[:2]] == ["xists already;"] * 2
    assert errors[2].endswith("file is a file; name a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "vlrun-one", "vlrun-two"]
    assert not list((tmp_path / "vlrun-one").iterdir())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = Path.write_text, []

    def full_after_three(path: Path, *arguments: Any, **options: Any) -> int:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full_after_three)
    assert main(["new-plugin", "net", "--kind", "backbone", "--into", str(tmp_path)]) == 5
    assert f"{tmp_path / 'vlrun-net'}: cannot write it: No space left on device" in capsys.readouterr().err
    assert len(written) == 3
    assert all(path.is_relative_to(tmp_path) for path in written)
    assert not list(tmp_path.iterdir())


def test_what_is_printed_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = new_plugin("net", "backbone", tmp_path / "my plugins")
    lines = capsys.readouterr().out.splitlines()
    listed = [line.strip() for line in lines[1 : lines.index("Next:")]]
    assert listed == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert [line.strip() for line in lines[-3:]] == [
        f"pip install -e '{folder}[test]'",
        f"pytest '{folder}'",
        f"runner run '{folder / 'experiment.yaml'}' --demo",
    ]


def test_what_is_tried_next_fits_the_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        folder = new_plugin(f"net-{kind}", kind, tmp_path)
        trial = capsys.readouterr().out.splitlines()[-1].strip()
        has_experiment = (folder / "experiment.yaml").is_file()
        assert trial.startswith("runner run ") == has_experiment
        assert has_experiment or f"net-{kind}" in trial
        assert trial.replace(str(folder / "experiment.yaml"), "experiment.yaml") in (folder / "README.md").read_text()
        assert ("`experiment.yaml`" in (folder / "README.md").read_text()) == has_experiment
        make_parser(trial.split()[1:]).parse_args(trial.split()[1:])


def test_a_new_plugin_is_written_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom vlrun.cli import main\n"
        "assert main(['new-plugin', 'net', '--kind', 'task']) == 0\nprint(*sys.modules, file=sys.stderr)"
    )
    done = command("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.split()) & {"torch", "numpy", "pydantic", "tensorboard"}
    assert (tmp_path / "vlrun-net" / "vlrun_net" / "task.py").is_file()


def test_there_is_a_kind_for_every_hook() -> None:
    assert {kind.replace("-", " ") for kind in KINDS} == set(HOOKS)


def test_the_page_for_authors_begins_with_the_verb_and_lists_every_kind() -> None:
    page = (ROOT / "docs" / "write_a_plugin.md").read_text()
    assert "runner new-plugin my-net --kind backbone" in "\n".join(page.splitlines()[:8])
    assert re.findall(r"^\| `(\w[\w-]*)` \|", page, re.MULTILINE)[: len(KINDS)] == list(KINDS)


def test_the_stub_of_the_kit_is_a_backbone_itself() -> None:
    check_backbone(StubBackbone(16, 8), ["a red ball", "two dogs on a sofa", ""], feature_size=8)
