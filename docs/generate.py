"""Writes docs/reference.md from the code: ``python docs/generate.py``. A test asserts that the file is up to date."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from vlrun import errors
from vlrun.cli.parser import sentence
from vlrun.config.components import config_model
from vlrun.config.experiment import Experiment
from vlrun.config.features import FeaturesConfig
from vlrun.config.optimisation import AverageConfig, ParameterGroup
from vlrun.config.published import Published, PublishedResult
from vlrun.config.train import SamplingConfig, StopAndGoConfig, TrainConfig
from vlrun.plugins import hookspecs
from vlrun.plugins.manager import HOOKS, create_plugins
from vlrun.testing import PUBLIC

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reference.md"
OF_THE_DEMO = ("vlrun_demo.coco", "vlrun_demo.language")
"""What writers of demo data, and nothing else in a plugin, may import besides."""
OURS = {"vlrun", *(f"vlrun-{folder.name}" for folder in (ROOT / "plugins").iterdir())}


def reference() -> str:
    """The whole page."""
    return "\n".join([*head(), *statuses(), *verbs(), *experiment(), *components(), *hooks(), *public()]) + "\n"


def head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from the code by `python docs/generate.py`."


def statuses() -> Iterator[str]:
    yield from ("", "## Exit statuses", "", "| status | meaning |", "|---|---|", "| 0 | done |", "| 1 | a bug |")
    for kind in vars(errors).values():
        if getattr(kind, "exit_status", 0) > 1 and kind is not errors.RunnerError and kind.__name__[0] != "_":
            yield f"| {kind.exit_status} | {first_line(kind.__doc__)} |"
    yield "| 130 | interrupted |"


def verbs() -> Iterator[str]:
    yield from ("", "## Commands", "", "`runner VERB ...`, or `python runner.py VERB ...` from a checkout.")
    for record, kind, command in create_plugins().offers():
        if kind == "command" and record.distribution in OURS:
            parser = argparse.ArgumentParser(prog=f"runner {command.name}", description=sentence(command.summary))
            command.load().add_arguments(parser)
            yield from ("", f"### {command.name}", "", "```text", parser.format_help().rstrip(), "```")
            for action, of_action in actions(parser).items():
                yield from ("", f"#### {command.name} {action}", "")
                yield from ("```text", of_action.format_help().rstrip(), "```")


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a verb's own verbs, as `data build` has one; argparse has no public way to them."""
    holders = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: of_action for holder in holders for name, of_action in holder.choices.items()}


def experiment() -> Iterator[str]:
    yield from ("", "## Experiment files", "")
    yield "Relative paths lie under `data_root`. `VLRUN_DATA` and `VLRUN_RUNS` set the roots from outside."
    for title, model in (
        ("top level", Experiment),
        ("published", Published),
        ("published.results", PublishedResult),
        ("train", TrainConfig),
        ("train.groups", ParameterGroup),
        ("train.ema", AverageConfig),
        ("train.sampling", SamplingConfig),
        ("train.stop_and_go", StopAndGoConfig),
        ("features", FeaturesConfig),
    ):
        yield from ("", f"### {title}", "")
        yield from options(model)


def components() -> Iterator[str]:
    plugins = create_plugins()
    for kind in ("backbone", "task", "dataset", "metric", "reporter", "optimizer", "schedule", "callback", "detector"):
        yield from ("", f"## {kind.capitalize()}s")
        if not plugins.entries(kind):
            yield from ("", "None come with vlrun; plugins add them.")
        for entry in plugins.entries(kind):
            record = plugins.provider_of(kind, entry.name)
            if record.distribution not in OURS:
                continue
            yield from ("", f"### {entry.name}", "", f"{entry.summary}. From `{record.distribution}`.", "")
            yield from options(config_model(kind, entry))


def options(model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema()["properties"]
    yield "| option | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{plain(field.get_default(call_default_factory=True))}`"
        yield f"| `{name}` | {type_of(schema[name])} | {default} | {(field.description or '').replace('|', '/')} |"


def type_of(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(type_of(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema.get("type") == "array":
        return "list"
    if schema.get("format") == "path":
        return "path"
    return str(schema.get("type", "section")).replace("object", "section")


def plain(value: object) -> str:
    if isinstance(value, BaseModel):
        return ", ".join(f"{key}: {item}" for key, item in value.model_dump(exclude_none=True).items())
    return "null" if value is None else str(value)


def hooks() -> Iterator[str]:
    yield from ("", "## Hooks", "", "| hook | what it returns |", "|---|---|")
    for hook in HOOKS.values():
        yield f"| `{hook}` | {first_line(getattr(hookspecs, hook).__doc__)} |"


def first_line(text: str | None) -> str:
    return " ".join((text or "").strip().split())


def public() -> Iterator[str]:
    yield from ("", "## What plugins may import", "", "Everything else is private and may change at any time.")
    for module_name in (*PUBLIC, *OF_THE_DEMO):
        module = import_module(module_name)
        yield from ("", f"### {module_name}", "", first_line(module.__doc__), "", "| name | |", "|---|---|")
        for name in sorted(getattr(module, "__all__", None) or own_names(module)):
            about = getattr(module, name)
            is_ours = str(getattr(about, "__module__", "")).startswith("vlrun")
            summary = (about.__doc__ or "").partition("\n")[0] if is_ours else ""
            yield f"| `{name}` | {summary} |".replace("  |", " |")


def own_names(module: ModuleType) -> list[str]:
    """Public functions, classes and constants that a module defines."""
    borrowed = {"F", "TYPE_CHECKING"}
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name not in borrowed
        and (name.isupper() or getattr(value, "__module__", None) == module.__name__)
    ]


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    TARGET.write_text(reference(), encoding="utf-8")
