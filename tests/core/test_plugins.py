"""Plugins are found through entry points; one that fails never takes another down."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from toy_world import EXPERIMENT

from vlrun.cli import main
from vlrun.config.components import check_references
from vlrun.config.experiment import load_experiment
from vlrun.errors import ConfigError, PluginError
from vlrun.plugins.code import code_of_plugins
from vlrun.plugins.manager import PluginRecord, Plugins, create_plugins
from vlrun.testing import check_plugin

Install = Callable[..., None]

BACKBONE = """
    from vlrun import Entry, hookimpl

    @hookimpl
    def vlrun_backbones():
        return [Entry(name="{name}", summary="a backbone", config="vlrun:BackboneConfig", factory="builtins:print")]
"""


def record_of(plugins: Plugins, distribution: str) -> PluginRecord:
    return next(record for record in plugins.records if record.distribution == distribution)


def test_an_installed_plugin_is_found_with_what_it_offers(install: Install) -> None:
    install("vlrun-good", BACKBONE.format(name="good"))
    plugins = create_plugins()
    assert plugins.find("backbone", "good").summary == "a backbone"
    assert record_of(plugins, "vlrun-good").offers == {"backbone": ["good"]}


def test_what_the_core_says_of_itself_to_refuse_a_platform_is_no_requirement_of_a_plugin(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "vlrun<0; sys_platform == 'win32'"
    install("vlrun-old", BACKBONE.format(name="old"), requires=refusal)
    assert record_of(create_plugins(), "vlrun-old").status == "incompatible"
    monkeypatch.setattr("importlib.metadata.Distribution.requires", [refusal])
    assert record_of(create_plugins(), "vlrun").status == "ok"


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


DEMO = """
    from vlrun import DemoSource, hookimpl

    @hookimpl
    def vlrun_demo_sources():
        return [
            DemoSource(name="hens", provider="world", image_set="vqa", builder="official", writer="{writer}")
        ]
"""


def test_two_plugins_with_demo_data_of_one_dataset_clash(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("vlrun-one", DEMO.format(writer="builtins:print"))
    assert create_plugins().demo_sources()["hens"].plugin == "vlrun-one 1.0"
    install("vlrun-two", DEMO.format(writer="builtins:print"))
    assert main(["list-plugins", "--strict"]) == PluginError.exit_status
    printed = capsys.readouterr().out
    assert "! demo source 'hens' is also offered by vlrun-two 1.0" in printed
    assert "! demo source 'hens' is also offered by vlrun-one 1.0" in printed
    assert "hens" not in create_plugins().demo_sources()


@pytest.mark.parametrize(
    ("needs", "status"),
    [("vlrun_moon", "ok"), ("vlrun.moon", "broken"), ("vlrun_one_demo.moon", "broken")],
    ids=["the world", "no public module", "no module of its own"],
)
def test_a_writer_of_demo_data_may_need_a_world_that_is_not_installed(
    install: Install, tmp_path: Path, needs: str, status: str
) -> None:
    install("vlrun-one", DEMO.format(writer="vlrun_one_demo:write").replace('"world"', '"moon"'))
    (tmp_path / "site-packages" / "vlrun_one_demo.py").write_text(f"import {needs}\n\n\ndef write(): ...\n")
    check_references(plugins := create_plugins())
    assert record_of(plugins, "vlrun-one").status == status


def test_the_hash_of_a_plugin_changes_with_its_files_alone(install: Install, tmp_path: Path) -> None:
    install("vlrun-one", BACKBONE.format(name="one"))
    install("vlrun-two", BACKBONE.format(name="two"))
    before = code_of_plugins(create_plugins())
    assert before["vlrun-one"] != before["vlrun-two"]
    assert len(set(before.values())) == len(before)
    with (tmp_path / "site-packages" / "vlrun_one.py").open("a") as file:
        file.write("# a comment\n")
    after = code_of_plugins(create_plugins())
    assert {name for name in after if after[name] != before[name]} == {"vlrun-one"}


def test_a_missing_name_is_explained_by_any_broken_plugin_and_suggests_no_unknown_package(install: Install) -> None:
    assert create_plugins().why_missing("reporter", "wandb").endswith("Install the plugin that offers it")
    install("vlrun-tracking", "raise RuntimeError('no luck')")
    message = create_plugins().why_missing("reporter", "consle")
    assert "Did you mean 'console'? Plugin vlrun-tracking 1.0 may offer it but is broken: RuntimeError" in message
    assert "pip install" not in create_plugins().why_missing("reporter", "wandb")


def test_a_plugin_cannot_take_a_built_in_name(install: Install) -> None:
    source = BACKBONE.format(name="console").replace("backbones", "reporters").replace("BackboneC", "ReporterC")
    install("vlrun-thief", source)
    plugins = create_plugins()
    assert record_of(plugins, "vlrun-thief").status == "clash"
    assert plugins.is_built_in("reporter", "console")


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        pytest.param("[42]", "returned 42, expected vlrun.Entry", id="not-an-entry"),
        pytest.param(
            "[Entry(name='x', summary='', config=dict, factory='a:b')]", "config=<class 'dict'> is not", id="no-path"
        ),
        pytest.param(
            "[Entry(name='x', summary='', config='a:b', factory='a.b')]", "write 'package.module:name'", id="no-name"
        ),
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


PATHS = """
    from vlrun import Builder, Entry, WeightFormat, hookimpl

    class NoConfig: ...

    @hookimpl
    def vlrun_backbones():
        return [Entry(name="net", summary="", config="{config}", factory="{factory}")]

    @hookimpl
    def vlrun_datasets():
        return [
            Entry(
                name="pets",
                summary="",
                config="vlrun:DatasetConfig",
                factory="builtins:print",
                record="{record}",
                builders=(Builder(source="official", summary="", function="{function}"),),
            )
        ]

    @hookimpl
    def vlrun_weight_formats():
        return [WeightFormat(name="foreign", backbone="net", summary="", translator="{translator}")]
"""
RIGHT = {
    "config": "vlrun:BackboneConfig",
    "factory": "builtins:print",
    "record": "pydantic:BaseModel",
    "function": "builtins:print",
    "translator": "builtins:dict.fromkeys",
}


@pytest.mark.parametrize(
    ("attribute", "path", "reason"),
    [
        ("config", "vlrun_paths.config:Net", "cannot load vlrun_paths.config:Net: ModuleNotFoundError"),
        ("config", "vlrun_paths:NoConfig", "vlrun_paths:NoConfig of backbone 'net' must derive from vlrun.Backbone"),
        ("factory", "vlrun_paths:Net", "cannot load vlrun_paths:Net: AttributeError"),
        ("factory", "vlrun:__version__", "vlrun:__version__ cannot be called (factory of backbone 'net')"),
        ("record", "vlrun_paths:NoConfig", "vlrun_paths:NoConfig is not a pydantic model"),
        ("function", "vlrun_paths:build", "cannot load vlrun_paths:build: AttributeError"),
        ("translator", "vlrun_paths:translate", "cannot load vlrun_paths:translate: AttributeError"),
    ],
)
def test_a_path_that_leads_nowhere_is_found_by_the_check_and_by_the_kit(
    install: Install, capsys: pytest.CaptureFixture[str], attribute: str, path: str, reason: str
) -> None:
    install("vlrun-paths", PATHS.format(**{**RIGHT, attribute: path}))
    assert record_of(create_plugins(), "vlrun-paths").status == "ok"
    assert main(["list-plugins", "--check"]) == PluginError.exit_status
    printed = capsys.readouterr().out
    assert f"! vlrun-paths 1.0: {reason}" in printed
    assert printed.count("broken") == 1, "every path of our own leads somewhere"
    with pytest.raises(AssertionError) as failed:
        check_plugin("vlrun_paths")
    assert reason in str(failed.value)


def test_a_plugin_whose_paths_are_right_passes_the_kit(install: Install) -> None:
    install("vlrun-paths", PATHS.format(**RIGHT))
    check_plugin("vlrun_paths")


def test_the_kit_refuses_a_module_that_cannot_be_loaded_or_offers_nothing(install: Install) -> None:
    install("vlrun-bad", "raise RuntimeError('no luck')")
    with pytest.raises(AssertionError, match="no luck"):
        check_plugin("vlrun_bad")
    install("vlrun-empty", "")
    with pytest.raises(AssertionError, match="vlrun_empty offers nothing"):
        check_plugin("vlrun_empty")


def test_a_factory_is_called_with_the_config_and_the_split(install: Install) -> None:
    source = """
        from vlrun import Entry, hookimpl

        class Toys:
            @classmethod
            def of(cls, config, split):
                return cls, config, split

        @hookimpl
        def vlrun_datasets():
            return [Entry(name="toys", summary="", config="vlrun:DatasetConfig", factory="vlrun_toys:Toys.of")]
    """
    install("vlrun-toys", source)
    made, config, split = create_plugins().find("dataset", "toys").build(None, "val")  # type: ignore[arg-type]
    assert (made.__name__, config, split) == ("Toys", None, "val")


def test_an_experiment_that_names_a_broken_component_says_which_plugin_and_why(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-paths", PATHS.format(**{**RIGHT, "config": "vlrun_paths.config:Net"}))
    path = tmp_path / "toy.yaml"
    path.write_text("backbone: {name: net}\ntasks: []\ntrain: {epochs: 1, batch_size: 1, learning_rate: 1}\n")
    with pytest.raises(ConfigError, match=r"vlrun-paths 1\.0: cannot load vlrun_paths\.config:Net"):
        load_experiment(path)  # `tasks` is wrong too
    path.write_text(EXPERIMENT.replace("name: toy}", "name: net}"))
    plugins = create_plugins([*entry_points(group="vlrun"), EntryPoint("toy", "toy_world", "vlrun")])
    with pytest.raises(PluginError) as refused:
        load_experiment(path, plugins=plugins)
    (message,) = refused.value.problems
    expected = f"{path}:2: backbone.name: vlrun-paths 1.0: cannot load vlrun_paths.config:Net: ModuleNotFoundError"
    assert message.startswith(expected)
    assert main(["list", "backbones", "--options"]) == PluginError.exit_status
    assert "Traceback" not in capsys.readouterr().err


VERB = """
    from vlrun import Command, hookimpl

    def add_arguments(parser):
        parser.add_argument("count", type=int)

    def run(arguments):
        print("hens:", arguments.count)
        return 0

    @hookimpl
    def vlrun_commands():
        return [Command(name="{name}", summary="count the hens", module="{module}")]
"""


def test_a_plugin_adds_a_verb_whose_module_is_imported_when_it_is_used(
    install: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    install("vlrun-hens", VERB.format(name="count-hens", module="hens_verb"))
    (tmp_path / "site-packages" / "hens_verb.py").write_text(
        "def add_arguments(parser):\n    parser.add_argument('count', type=int)\n"
        "def run(arguments):\n    print('hens:', arguments.count)\n    return 0\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert re.search(r"count-hens +count the hens", capsys.readouterr().out)
    assert main(["list-plugins"]) == 0
    assert re.search(r"command: count-hens", capsys.readouterr().out)
    assert "hens_verb" not in sys.modules
    assert main(["count-hens", "3"]) == 0
    assert capsys.readouterr().out == "hens: 3\n"
    assert sys.modules.pop("hens_verb")


def test_a_verb_cannot_be_taken_from_the_core_or_from_another_plugin(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-thief", VERB.format(name="run", module="vlrun_thief"))
    assert "command 'run' is a built-in name" in record_of(create_plugins(), "vlrun-thief").reasons[0]
    install("vlrun-one", VERB.format(name="fly", module="vlrun_one"))
    install("vlrun-two", VERB.format(name="fly", module="vlrun_two"))
    assert main(["fly", "3"]) == PluginError.exit_status
    assert "command 'fly' is offered by vlrun-one 1.0 and vlrun-two 1.0" in capsys.readouterr().err


def test_an_unknown_verb_names_the_broken_plugin_that_may_be_why(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-hens", "raise RuntimeError('no luck')")
    assert main(["hens"]) == PluginError.exit_status
    assert "Plugin vlrun-hens 1.0 may offer it but is broken: RuntimeError: no luck" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["cows"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("vlrun_hens.nowhere", "vlrun-hens 1.0: cannot load vlrun_hens.nowhere: ModuleNotFoundError"),
        ("json", "vlrun-hens 1.0: json (verb 'count-hens') has no add_arguments and no run"),
    ],
)
def test_a_verb_whose_module_is_wrong_says_whose_it_is(
    install: Install, capsys: pytest.CaptureFixture[str], module: str, reason: str
) -> None:
    install("vlrun-hens", VERB.format(name="count-hens", module=module))
    assert main(["count-hens", "3"]) == PluginError.exit_status
    assert f"PluginError: {reason}" in capsys.readouterr().err
    assert main(["list-plugins", "--check"]) == PluginError.exit_status
    assert reason in capsys.readouterr().out
