"""Plugins are found through entry points; one that fails never takes another down."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from vlrun.cli import main
from vlrun.errors import PluginError
from vlrun.plugins.manager import PluginRecord, Plugins, create_plugins

Install = Callable[..., None]

BACKBONE = """
    from vlrun import BackboneConfig, Entry, hookimpl

    @hookimpl
    def vlrun_backbones():
        return [Entry("{name}", "a backbone", BackboneConfig, lambda config: None)]
"""


def record_of(plugins: Plugins, distribution: str) -> PluginRecord:
    return next(record for record in plugins.records if record.distribution == distribution)


def test_an_installed_plugin_is_found_with_what_it_offers(install: Install) -> None:
    install("vlrun-good", BACKBONE.format(name="good"))
    plugins = create_plugins()
    assert plugins.find("backbone", "good").summary == "a backbone"
    assert record_of(plugins, "vlrun-good").offers == {"backbone": ["good"]}


def test_a_plugin_that_raises_on_import_is_listed_with_the_reason(install: Install) -> None:
    install("vlrun-bad", "raise RuntimeError('no luck')")
    install("vlrun-good", BACKBONE.format(name="good"))
    plugins = create_plugins()
    assert record_of(plugins, "vlrun-bad").status == "broken"
    assert "RuntimeError: no luck" in record_of(plugins, "vlrun-bad").reasons[0]
    assert plugins.find("backbone", "good")


def test_a_plugin_that_exits_on_import_does_not_end_the_command(install: Install) -> None:
    install("vlrun-bad", "raise SystemExit(3)")
    assert record_of(create_plugins(), "vlrun-bad").status == "broken"


def test_a_misspelt_hook_is_an_error_with_the_near_name(install: Install) -> None:
    install("vlrun-typo", BACKBONE.format(name="x").replace("vlrun_backbones", "vlrun_backbonse"))
    record = record_of(create_plugins(), "vlrun-typo")
    assert record.status == "broken"
    assert "no hook 'vlrun_backbonse', did you mean 'vlrun_backbones'?" in record.reasons[0]


def test_a_plugin_for_another_core_version_is_not_loaded(install: Install) -> None:
    install("vlrun-old", "raise AssertionError('must not be imported')", requires="vlrun<0.1")
    record = record_of(create_plugins(), "vlrun-old")
    assert record.status == "incompatible"
    assert "needs vlrun<0.1" in record.reasons[0]


@pytest.mark.parametrize(
    ("requires", "status"),
    [
        ("vlrun<0.4,>=0.3", "ok"),
        ("vlrun (>=0.3)", "ok"),
        ("vlrun[profile]~=0.3.0", "ok"),
        ("vlrun-friend<0.1", "ok"),
        ("vlrun>=0.3; python_version > '3'", "ok"),
        ("vlrun[profile]>=0.4", "incompatible"),
        ("vlrun>=0.3,<abc", "broken"),
    ],
)
def test_requirements_are_read_as_pip_writes_them(install: Install, requires: str, status: str) -> None:
    install("vlrun-some", BACKBONE.format(name="some"), requires=requires)
    assert record_of(create_plugins(), "vlrun-some").status == status


def test_two_plugins_with_one_name_clash_and_neither_wins(install: Install) -> None:
    install("vlrun-one", BACKBONE.format(name="same"))
    install("vlrun-two", BACKBONE.format(name="same"))
    plugins = create_plugins()
    assert {record_of(plugins, name).status for name in ("vlrun-one", "vlrun-two")} == {"clash"}
    with pytest.raises(PluginError, match=r"'same' is offered by vlrun-one 1.0 and vlrun-two 1.0"):
        plugins.find("backbone", "same")


def test_a_plugin_cannot_take_a_built_in_name(install: Install) -> None:
    source = BACKBONE.format(name="console").replace("backbones", "reporters").replace("BackboneC", "ReporterC")
    install("vlrun-thief", source)
    plugins = create_plugins()
    assert record_of(plugins, "vlrun-thief").status == "clash"
    assert plugins.is_built_in("reporter", "console")


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        pytest.param("[42]", "returned 42, which has no name", id="not-an-entry"),
        pytest.param("[Entry('x', '', dict, len)]", "must derive from vlrun.BackboneConfig", id="wrong-config"),
        pytest.param("1 / 0", "ZeroDivisionError", id="hook-raises"),
    ],
)
def test_a_hook_that_returns_nonsense_is_reported(install: Install, returned: str, reason: str) -> None:
    source = f"from vlrun import Entry, hookimpl\n@hookimpl\ndef vlrun_backbones():\n    return {returned}\n"
    install("vlrun-odd", source)
    record = record_of(create_plugins(), "vlrun-odd")
    assert record.status == "broken"
    assert reason in record.reasons[0]


def test_an_unknown_name_suggests_the_nearest(install: Install) -> None:
    install("vlrun-good", BACKBONE.format(name="rosetta"))
    with pytest.raises(PluginError, match="Did you mean 'rosetta'"):
        create_plugins().find("backbone", "rosetto")


def test_an_unknown_name_names_the_broken_plugin_that_may_be_why(install: Install) -> None:
    install("vlrun-marvel", "import a_module_that_is_not_there")
    with pytest.raises(PluginError, match=r"vlrun-marvel 1.0 may offer it but is broken: ModuleNotFoundError"):
        create_plugins().find("backbone", "marvel")


def test_list_plugins_exits_with_zero_whatever_is_broken(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("vlrun-bad", "raise RuntimeError('no luck')")
    assert main(["list-plugins"]) == 0
    assert "vlrun-bad" in capsys.readouterr().out
    assert main(["list-plugins", "--json"]) == 0
    listed = {record["distribution"]: record for record in json.loads(capsys.readouterr().out)}
    assert listed["vlrun-bad"]["status"] == "broken"
    assert main(["list-plugins", "--strict"]) == PluginError.exit_status
