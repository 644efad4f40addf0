"""``runner weights``: import the authors' checkpoints, export the weights of runs, inspect files of weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.errors import PluginError, UsageError

if TYPE_CHECKING:
    from vlrun.engine.weight_files import ImportReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes one of the actions import, export and inspect."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    importing = actions.add_parser("import", help="convert the authors' checkpoint once into .safetensors + manifest")
    importing.add_argument("--from", dest="format", metavar="FORMAT", required=True, help="layout of FILE")
    importing.add_argument("file", type=Path, metavar="FILE", help="the authors' file")
    importing.add_argument("out", type=Path, metavar="OUT", help="file to write, ending in .safetensors")
    importing.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="vocabulary the weights were trained with, checked when loading"
    )
    seen = importing.add_mutually_exclusive_group()
    seen.add_argument(
        "--pretrained-on",
        nargs="+",
        default=[],
        metavar="IDS",
        help="images that the weights have seen beside those that FORMAT is known for, to report leaks: patterns of "
        "ids such as 'COCO_val2014_*' or 'visual-genome:*', 'possibly PATTERN', 'PATTERN except PATTERN' or "
        "'PATTERN except DATASET/SPLIT'",
    )
    seen.add_argument(
        "--pretrained-on-only",
        nargs="*",
        metavar="IDS",
        help="the same, instead of those that FORMAT is known for; none at all if no IDS follow",
    )
    importing.add_argument(
        "--answers", type=Path, metavar="FILE", help="answer list that the file's answer head was trained with"
    )

    exporting = actions.add_parser("export", help="write the weights of a run's backbone, for other runs to start from")
    exporting.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    exporting.add_argument("out", type=Path, metavar="OUT", help="file to write, ending in .safetensors")
    exporting.add_argument(
        "--checkpoint",
        default="best",
        help="best (of a joint run: for all tasks together), last, or a checkpoint folder (default: best)",
    )

    inspecting = actions.add_parser("inspect", help="show what a file of weights contains, and which format reads it")
    inspecting.add_argument("file", type=Path, metavar="FILE")
    inspecting.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Does the action and prints what was written or found."""
    return {"import": _import, "export": _export, "inspect": _inspect}[arguments.action](arguments)


def _import(arguments: argparse.Namespace) -> int:
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    weight_format = plugins.weight_formats().get(arguments.format)
    if weight_format is None:
        raise PluginError(plugins.why_missing("weight format", arguments.format))

    from vlrun.blocks.answers import read_answers
    from vlrun.blocks.wordpiece import WordPiece
    from vlrun.data.declared import unreadable
    from vlrun.engine.weight_files import import_weights

    patterns = arguments.pretrained_on if arguments.pretrained_on_only is None else arguments.pretrained_on_only
    if wrong := unreadable(patterns):
        raise UsageError(f"'{wrong[0]}' names no images; write PATTERN, or 'PATTERN except PATTERN'")
    report = import_weights(
        arguments.file,
        arguments.out,
        weight_format,
        vocabulary_hash=WordPiece(arguments.vocabulary).hash if arguments.vocabulary else None,
        pretraining_sets=patterns if arguments.pretrained_on_only is not None else [*weight_format.seen, *patterns],
        heads={"answer_head": {"answers": list(read_answers(arguments.answers))}} if arguments.answers else {},
    )
    _print(report)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from vlrun.config.experiment import load_experiment
    from vlrun.engine.run_folder import open_run_folder
    from vlrun.plugins.manager import create_plugins
    from vlrun.runs.export import export_weights

    plugins = create_plugins()
    folder = open_run_folder(Path(arguments.run_folder))
    experiment = load_experiment(folder.config, plugins=plugins)
    _print(export_weights(folder, experiment, arguments.out, plugins, arguments.checkpoint))
    return 0


def _print(report: ImportReport) -> None:
    for module, count in report.modules.items():
        print(f"{module}: {count} tensors")
    for entry in report.left_behind:
        print(f"left behind: {entry}")
    print(f"seen in pre-training: {report.seen or 'no images, as far as is known'}")
    print(f"wrote {report.out} ({report.parameters:,} parameters) and {report.manifest}")


def _inspect(arguments: argparse.Namespace) -> int:
    from vlrun.engine.weight_files import inspect_weights
    from vlrun.plugins.manager import create_plugins

    summary = inspect_weights(arguments.file, create_plugins().weight_formats())
    print(json.dumps(summary.as_json(), indent=2) if arguments.json else "\n".join(summary.lines()))
    return 0
