"""The rules of the house that a machine can check: who may import whom, and that all plugins are made alike."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from vlrun.testing import check_dataset, check_plugin

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "vlrun"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import statement, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def package_of(plugin: Path) -> str:
    return f"vlrun_{plugin.name}"


def test_the_core_imports_no_plugin_and_names_none() -> None:
    names = {package_of(plugin) for plugin in PLUGINS}
    for path in CORE.rglob("*.py"):
        assert not names & {module.split(".")[0] for module, _ in imports_of(path)}, path
        text = path.read_text()
        named = [name for name in names if re.search(rf"\b({name}|{name.replace('_', '-')})\b", text)]
        assert not named, path


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_only_plugins_that_it_declares_and_nothing_private(plugin: Path) -> None:
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    for path in plugin.rglob("*.py"):
        is_demo = "demo" in path.relative_to(plugin / package_of(plugin)).with_suffix("").parts
        needed = [
            *project["dependencies"],
            *(project.get("optional-dependencies", {}).get("demo", []) if is_demo else []),
        ]
        declared = {line.partition(">")[0].replace("-", "_") for line in needed}
        others = {package_of(other) for other in PLUGINS if other != plugin} - declared
        for module, name in imports_of(path):
            assert module.split(".")[0] not in others, f"{path} imports {module}"
            if module.split(".")[0] == "vlrun":
                assert not name.startswith("_"), f"{path} imports the private {module}.{name}"
            if is_demo and module.split(".")[0] == "vlrun_demo":
                assert module in ("vlrun_demo.language", "vlrun_demo.coco"), f"{path} imports the private {module}"
            if not is_demo:
                assert not module.startswith(f"{package_of(plugin)}.demo"), (
                    f"{path} needs what only demos have: {module}"
                )


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_are_packaged_alike(plugin: Path) -> None:
    project = tomllib.loads((plugin / "pyproject.toml").read_text())
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"] == core["build-system"]
    assert project["project"]["requires-python"] == core["project"]["requires-python"]
    assert project["project"]["license"] == core["project"]["license"]
    assert project["project"]["version"] == core["project"]["version"]
    assert "vlrun>=0.3,<0.4" in project["project"]["dependencies"]
    assert project["project"]["entry-points"]["vlrun"] == {plugin.name: f"{package_of(plugin)}.plugin"}
    assert set(project.get("tool", {})) == {"hatch"}, "tools are configured once, at the root"
    assert (plugin / package_of(plugin) / "py.typed").exists()
    assert len((plugin / "README.md").read_text().splitlines()) > 5


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*CORE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert len(files) > 50
    long = {str(path.relative_to(ROOT)): lines for path in files if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_the_experiments_that_ship_are_complete() -> None:
    names = {path.stem for path in (ROOT / "experiments").rglob("*.yaml")}
    answering = {
        f"{backbone}_{task}" for backbone in ("rosita", "lxmert_s", "lxmert") for task in ("vqa", "gqa", "nlvr2")
    }
    as_published = {"rosita_vqa_trainval"}  # on splits of its own; rosita_vqa holds minival out
    grounding = {"rosita_refcoco", "rosita_refcoco+", "rosita_refcocog", "lxmert_s_refcoco+"}
    joint = {"lxmert_s_vqa+gqa+nlvr2", "rosita_vqa+refcoco+"}
    retrieval = {"rosita_itr_coco", "rosita_itr_flickr", "lxmert_s_ir", "lxmert_s_tr", "lxmert_retrieval_flickr"}
    zero_shot = {"lxmert_s_ir_zero_shot", "lxmert_s_tr_zero_shot", "rosita_zero_shot_flickr"}
    pretraining = {"demo_pretrain_rosita", "demo_pretrain_lxmert_s", "demo_pretrain_lxmert", "lxmert_pretrain"}
    pretraining |= {"rosita_pretrain"}
    stages = {f"lxmert_s_pretrain_{stage}" for stage in ("1_word", "2_phrase", "3_sentence")}
    of_transformers = {"vilt_vqa", "vilt_nlvr2", "clip_itr_flickr", "clip_zero_shot_flickr", "demo_pretrain_clip"}
    ours = answering | as_published | grounding | joint | retrieval | zero_shot | pretraining | stages
    assert names == ours | of_transformers


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_every_path_that_a_plugin_names_leads_somewhere(plugin: Path) -> None:
    check_plugin(f"{package_of(plugin)}.plugin")


EXAMPLES = sorted((ROOT / "examples").glob("*/vlrun_*"))


@pytest.mark.parametrize("package", EXAMPLES, ids=lambda path: path.name)
def test_every_path_that_an_example_names_leads_somewhere(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package.parent))
    check_plugin(f"{package.name}.plugin")


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_is_short(folder: Path) -> None:
    """At most 150 lines of code: neither blank nor comment nor documentation."""
    files = sorted(folder.glob("*.py"))
    assert len(files) > 1
    assert 10 < sum(code_lines(file.read_text()) for file in files) <= 150


def code_lines(text: str) -> int:
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(number not in documented and line.strip()[:1] not in ("", "#") for number, line in lines)


def test_the_dataset_of_the_example_keeps_its_promises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_plugin"))
    config = import_module("vlrun_own.config").ShortExpressionsConfig(
        name="short-refcoco+", annotations=tmp_path, features=tmp_path, evaluate=["val"]
    )
    record = {"image": "one", "box": [0, 0, 9, 9], "width": 640, "height": 480}
    texts = ["the red ball", "the ball that the dog has", "a dog"]
    lines = [json.dumps({**record, "id": str(number), "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "val.jsonl").write_text("\n".join(lines) + "\n")
    examples = import_module("vlrun_own.dataset").ShortExpressions(config, "val")
    check_dataset(examples, images=["one"])
    assert [example.id for example in examples] == ["0", "2"]


def imported_by(arguments: list[str]) -> set[str]:
    """The modules that a command imports, in a fresh process."""
    script = (
        "import sys\n"
        "from vlrun.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list-plugins"], ["list", "backbones"], ["run", "--help"]], ids=" ".join
)
def test_listing_imports_no_pydantic_and_no_options_of_a_plugin(arguments: list[str]) -> None:
    modules = imported_by(arguments)
    assert not modules & {"pydantic", "numpy", "torch", "yaml", "lmdb", "tensorboard", "tokenizers"}
    of_plugins = {name for name in modules if name.startswith("vlrun_")}
    assert not {name for name in of_plugins if not name.endswith((".plugin", ".sources", ".downloads")) and "." in name}
    assert "vlrun.config" not in modules


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "backbones", "--options"],
        ["validate", "experiments/rosita_refcoco+.yaml"],
    ],
    ids=" ".join,
)
def test_quick_commands_import_no_torch(arguments: list[str]) -> None:
    assert not imported_by(arguments) & {"torch", "numpy", "tensorboard", "tokenizers", "lmdb"}


def documented(folders: Iterable[Path]) -> Iterator[tuple[str, bool, str]]:
    """Place, whether it is the ``forward`` of a class, and docstring, of every function and class below ``folders``."""
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for inner in node.body if isinstance(node, ast.Module | ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                    is_forward = isinstance(node, ast.ClassDef) and inner.name == "forward"
                    place = f"{path.relative_to(ROOT)}:{inner.lineno} {inner.name}"
                    yield place, is_forward, ast.get_docstring(inner) or ""


OURS = [CORE, *(plugin / package_of(plugin) for plugin in PLUGINS), ROOT / "examples"]


def test_every_forward_states_shapes() -> None:
    found = {place: text for place, is_forward, text in documented(OURS) if is_forward}
    assert len(found) > len(PLUGINS)
    assert not [place for place, text in found.items() if not re.search(r"\([A-Z].*\)", text)]


def test_a_docstring_says_what_is_done_before_what_is_taken_or_raised() -> None:
    headings = ("Raises:", "Args:", "Returns:", "Attributes:")
    assert not [place for place, _, text in documented(OURS) if text.startswith(headings)]
