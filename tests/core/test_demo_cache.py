"""Where demo data are kept, and what makes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_demo import ToyPlugins, ToyProvider, source

from vlrun.demo.data import cache_folder, prepare_demo
from vlrun.plugins.code import code_hash


@pytest.fixture
def provider(tmp_path: Path) -> ToyProvider:
    return ToyProvider(tmp_path / "calls")


def test_a_new_version_starts_a_new_folder(provider: ToyProvider, tmp_path: Path) -> None:
    first = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    provider.version = "8"
    second = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)

    assert first.root != second.root
    assert first.root.is_dir()


def test_changed_code_starts_a_new_folder(
    provider: ToyProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vlrun_made_up"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.txt").write_text("one")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ToyProvider, "__module__", "vlrun_made_up.provider")
    first = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    assert prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path).root == first.root
    (package / "words.txt").write_text("two")

    assert prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path).root != first.root


def test_a_changed_writer_makes_its_own_annotations_again_and_nothing_else(
    provider: ToyProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vlrun_toy_writer"
    package.mkdir()
    (package / "__init__.py").write_text("from toy_demo import write_official\n")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = source("plants", writer="vlrun_toy_writer:write_official")
    plugins = ToyPlugins(provider, sources=[source("animals"), theirs])
    first = prepare_demo(plugins, ["animals", "plants"], cache=tmp_path)
    with (package / "__init__.py").open("a") as file:
        file.write("# a comment\n")
    second = prepare_demo(plugins, ["animals", "plants"], cache=tmp_path)

    assert second.datasets["animals"] == first.datasets["animals"]
    assert second.datasets["plants"].annotations != first.datasets["plants"].annotations
    assert second.datasets["plants"].features == first.datasets["plants"].features
    assert provider.calls().count("annotations:plants") == 2
    assert provider.calls().count("annotations:animals") == provider.calls().count("features:zoo") == 1


def test_the_hash_of_code_covers_what_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vlrun_one", "vlrun_two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(name)
    monkeypatch.syspath_prepend(tmp_path)
    one = code_hash(["vlrun_one.task:make", "vlrun.cli:main"], core=["seeds.py"])
    (tmp_path / "vlrun_two" / "__init__.py").write_text("another")
    assert code_hash(["vlrun_one:other"], core=["seeds.py"]) == one
    assert code_hash(["vlrun_one"], core=["seeds.py", "files.py"]) != one
    assert code_hash(["vlrun_one", "vlrun_two"], core=["seeds.py"]) != one
    (tmp_path / "vlrun_one" / "words.txt").write_text("new")
    assert code_hash(["vlrun_one"], core=["seeds.py"]) != one


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VLRUN_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b"),
        ({}, "/home/someone/.cache"),
    ],
    ids=["vlrun", "xdg", "home"],
)
def test_the_cache_lies_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("VLRUN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cache_folder() == Path(expected)
