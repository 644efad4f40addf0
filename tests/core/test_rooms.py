"""The rooms of the core: one direction, no circles, few entries, one public surface; docs/architecture.md shows it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from vlrun.testing import PUBLIC, private_imports

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "vlrun"
PLUGINS = sorted((ROOT / "plugins").glob("*/vlrun_*"))
FOLDERS = [*sorted((ROOT / "examples").glob("*/vlrun_*")), *PLUGINS]

FLOORS: list[set[str]] = [
    {"__init__", "__main__", "testing"},
    {"cli"},
    {"demo"},
    {"runs"},
    {"engine"},
    {"data", "blocks"},
    {"config"},
    {"plugins"},
    {"features", "reporting"},
    {"interfaces"},
    {"files", "seeds", "cpus"},
    {"foreign"},
    {"errors"},
]
"""From the roof down. What stands on one floor does not import each other."""

Graph = dict[str, set[str]]


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in CORE.rglob("*.py"):
        parts = ("vlrun", *path.relative_to(CORE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the core that a file imports anywhere, type-only and inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name == "vlrun" or name.startswith("vlrun."):
                while name not in known and "." in name:
                    name = name.rpartition(".")[0]  # noqa: PLW2901 - from a name to its module
                yield "vlrun.__init__" if name == "vlrun" else name


@cache
def graph() -> Graph:
    return {name: set(imported(path, modules())) - {name} for name, path in modules().items()}


def room(module: str) -> str:
    return module.split(".")[1]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_import_leads_down() -> None:
    assert len(graph()) > 80
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if room(name) != room(other) and floor(name) >= floor(other)
    ]
    assert not wrong


def test_no_two_packages_import_each_other() -> None:
    arrows = {(room(name), room(other)) for name, others in graph().items() for other in others}
    assert not [(first, second) for first, second in arrows if first != second and (second, first) in arrows]


@pytest.mark.parametrize("folder", [CORE, *FOLDERS], ids=lambda folder: folder.name)
def test_no_modules_import_each_other_in_a_circle(folder: Path) -> None:
    names = {
        ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts)): path for path in folder.rglob("*.py")
    }
    found = {name: set(all_imported(path, names)) - {name} for name, path in names.items()}
    try:
        assert list(TopologicalSorter(found).static_order())
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


def all_imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                for name in (f"{node.module}.{alias.name}", node.module, f"{node.module}.__init__"):
                    if name in known:
                        yield name
                        break


def test_the_core_is_a_few_rooms_and_a_few_modules() -> None:
    entries = {path.name for path in CORE.iterdir() if path.name != "__pycache__"}
    rooms = {name for name in entries if (CORE / name).is_dir()}
    assert len(rooms) <= 13
    assert rooms == {name for rooms in FLOORS for name in rooms if (CORE / name).is_dir()}
    assert entries - rooms <= {
        "__init__.py",
        "__main__.py",
        "errors.py",
        "py.typed",
        "cpus.py",
        "files.py",
        "seeds.py",
    }


def test_the_page_shows_the_same_rooms_in_the_same_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = set(re.findall(r"^  ([a-z]+)/ ", page, re.MULTILINE))
    assert tree == {path.name for path in CORE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    (picture,) = re.findall(r"^    (cli -> .*)$", page, re.MULTILINE)
    drawn = [set(names.split(", ")) for names in picture.split(" -> ")]
    assert drawn == FLOORS[1:]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_plugins_import_public_modules_alone(folder: Path) -> None:
    assert not private_imports(folder)


def test_a_private_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from vlrun import Task\nfrom vlrun.files import read_json\n")
    (tmp_path / "two.py").write_text(
        "def f():\n    from vlrun.engine.ranks import Ranks\n    from vlrun import _HOMES\n"
    )
    assert private_imports(tmp_path) == [
        f"{tmp_path / 'two.py'}:2: vlrun.engine.ranks is not public",
        f"{tmp_path / 'two.py'}:3: vlrun._HOMES is not public",
    ]


def test_what_is_public_is_there_and_documented() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    for name in PUBLIC:
        path = CORE.joinpath(*name.split(".")[1:])
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name
        assert f"### {name}\n" in page, f"{name}: run python docs/generate.py"


def undocumented(folder: Path) -> Iterator[str]:
    """Public functions, classes and methods without a docstring, own or inherited; hooks have theirs already."""
    for path in sorted(folder.rglob("*.py")):
        name = ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        if path.stem == "__main__":
            continue
        module = import_module(name)
        for label, value in vars(module).items():
            if label.startswith(("_", "vlrun_")) or getattr(value, "__module__", None) != name:
                continue
            members = vars(value).items() if inspect.isclass(value) else ()
            public = [(label, value), *((f"{label}.{key}", getattr(value, key)) for key, _ in members if key[0] != "_")]
            for place, item in public:
                is_code = inspect.isclass(item) or inspect.isroutine(item) or isinstance(item, property)
                if is_code and not inspect.getdoc(item):
                    yield f"{path.relative_to(ROOT)}: {place}"


@pytest.mark.parametrize("folder", [CORE, *PLUGINS], ids=lambda folder: folder.name)
def test_everything_public_says_what_it_does(folder: Path) -> None:
    assert not list(undocumented(folder))
