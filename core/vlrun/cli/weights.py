"""``runner weights``: import the authors' checkpoints, export ours, inspect and check files of weights."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.cli.arguments import WITHOUT_AVERAGE, refuse_without_average
from vlrun.cli.format_help import add_help
from vlrun.cli.origins import add_origin_arguments, given_origin
from vlrun.errors import PluginError, UsageError
from vlrun.foreign.printing import say, say_json

if TYPE_CHECKING:
    from vlrun.engine.weight_files import ImportReport
    from vlrun.engine.weight_layouts import LayoutReport
    from vlrun.plugins.entries import WeightFormat
    from vlrun.plugins.manager import Plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes one of the actions import, export, inspect and check."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    importing = actions.add_parser(
        "import", help="convert the authors' checkpoint once into .safetensors + manifest", add_help=False
    )
    add_help(importing, lambda plugins: plugins.weight_formats().values())
    importing.add_argument("--from", dest="format", metavar="FORMAT", required=True, help="layout of FILE")
    importing.add_argument(
        "file",
        metavar="FILE",
        help="the authors' file, a folder as from_pretrained takes it, or hf:OWNER/NAME[@REVISION] of the Hugging Face "
        "hub",
    )
    importing.add_argument("out", type=Path, metavar="OUT", help="file to write, ending in .safetensors")
    importing.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="vocabulary the weights were trained with, checked when loading (default: the one beside them in a folder "
        "or on the hub, if there is one)",
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
    add_origin_arguments(importing, "the features that the weights saw; default: what FORMAT is known for")
    importing.add_argument(
        "--answers", type=Path, metavar="FILE", help="answer list that the file's answer head was trained with"
    )
    importing.add_argument("--licence", default="", metavar="TEXT", help="terms of the file, to be recorded")
    importing.add_argument(
        "--num-heads", type=int, metavar="N", help="attention heads, where neither the file nor its width tells"
    )

    exporting = actions.add_parser(
        "export", help="write the weights of a run's backbone, for other runs to start from, or in another layout"
    )
    exporting.add_argument(
        "run_folder",
        metavar="RUN",
        help="a run folder, or runs/<experiment> for its newest run; with --to also imported weights (.safetensors)",
    )
    exporting.add_argument(
        "out", type=Path, metavar="OUT", help="file to write, ending in .safetensors; a new folder with --to"
    )
    exporting.add_argument(
        "--to",
        dest="layout",
        metavar="LAYOUT",
        help="write a folder with config.json and model.safetensors: plain (our names), or a format with a way back",
    )
    exporting.add_argument("--vocabulary", type=Path, metavar="FILE", help="with --to: goes along as vocab.txt")
    exporting.add_argument(
        "--checkpoint",
        default="best",
        help="best (of a joint run: for all tasks together), last, or a checkpoint folder (default: best)",
    )
    exporting.add_argument("--without-average", action="store_true", help=WITHOUT_AVERAGE)

    inspecting = actions.add_parser("inspect", help="show what a file of weights contains, and which format reads it")
    inspecting.add_argument("file", metavar="FILE", help="a file, folder or hf:OWNER/NAME")
    inspecting.add_argument("--json", action="store_true", help="machine-readable output")

    checking = actions.add_parser(
        "check",
        help="compute again what imported weights gave for a fixed input; with an experiment: do matched pairs win?",
    )
    checking.add_argument("file", type=Path, metavar="FILE", help="imported weights (.safetensors)")
    checking.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the experiment")
    checking.add_argument(
        "--experiment",
        metavar="EXPERIMENT",
        help="a YAML file or a run, whose texts are scored with their own and with another image",
    )
    checking.add_argument("--task", metavar="LABEL", help="of a joint experiment (default: the first)")
    checking.add_argument("--split", default="", help="whose texts are taken (default: the first that is evaluated)")
    checking.add_argument("--pairs", type=int, default=64, metavar="N", help="how many texts (default: 64)")


def run(arguments: argparse.Namespace) -> int:
    """Does the action and prints what was written or found."""
    actions = {"import": _import, "export": _export, "inspect": _inspect, "check": _check}
    return actions[arguments.action](arguments)


def _vocabulary_hash(vocabulary: Path, backbone: Any) -> str:
    """Raises DataError for a tokeniser that the backbone cannot use."""
    from vlrun.blocks.tokenizer import read_tokenizer
    from vlrun.blocks.wordpiece import WordPiece

    reads_any = backbone is not None and getattr(backbone.load_config(), "any_tokenizer", False)
    return (read_tokenizer(vocabulary) if reads_any else WordPiece(vocabulary)).hash


def _import(arguments: argparse.Namespace) -> int:
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    weight_format = plugins.weight_formats().get(arguments.format)
    if weight_format is None:
        raise PluginError(plugins.why_missing("weight format", arguments.format))

    from vlrun.blocks.answers import read_answers
    from vlrun.blocks.decoders import ANSWER_HEAD
    from vlrun.data.declared import unreadable
    from vlrun.engine.weight_files import check_suffix, import_weights
    from vlrun.engine.weight_sources import find_source

    patterns = arguments.pretrained_on if arguments.pretrained_on_only is None else arguments.pretrained_on_only
    if wrong := unreadable(patterns):
        raise UsageError(f"'{wrong[0]}' names no images; write PATTERN, or 'PATTERN except PATTERN'")
    check_suffix(arguments.out)
    source = find_source(arguments.file)
    vocabulary = arguments.vocabulary or source.vocabulary
    backbone = _backbone_of(weight_format, plugins)
    report = import_weights(
        source,
        arguments.out,
        weight_format,
        vocabulary_hash=_vocabulary_hash(vocabulary, backbone) if vocabulary else None,
        pretraining_sets=patterns if arguments.pretrained_on_only is not None else [*weight_format.seen, *patterns],
        heads={ANSWER_HEAD: {"answers": list(read_answers(arguments.answers))}} if arguments.answers else {},
        licence=arguments.licence,
        features=given_origin(arguments),
        num_heads=arguments.num_heads,
        backbone=backbone,
    )
    if vocabulary and not arguments.vocabulary:
        say(f"vocabulary: {vocabulary}")
    _print(report)
    if backbone is not None and not report.is_checkable:
        say("not stored: what the network computes from a fixed input; the file is no whole network of known heads")
    return 0


def _backbone_of(weight_format: WeightFormat, plugins: Plugins) -> Any:
    """The declaration of the backbone, or None: a format may be for something else that has weights."""
    name = weight_format.backbone
    return plugins.find("backbone", name) if name in plugins.names("backbone") else None


def _export(arguments: argparse.Namespace) -> int:
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    source = Path(arguments.run_folder)
    if not arguments.layout:
        if arguments.vocabulary or source.suffix == ".safetensors":
            raise UsageError("say in which layout: --to plain, or a format with a way back")
        _print(_export_run(arguments, arguments.out, plugins))
        return 0

    from vlrun.engine.weight_layouts import export_layout

    with tempfile.TemporaryDirectory() as folder:
        if source.suffix != ".safetensors":
            source = _export_run(arguments, Path(folder) / "run.safetensors", plugins).out
        report = export_layout(source, arguments.out, arguments.layout, plugins, vocabulary=arguments.vocabulary)
    _print_layout(report)
    return 0


def _export_run(arguments: argparse.Namespace, out: Path, plugins: Plugins) -> ImportReport:
    from vlrun.config.experiment import load_experiment
    from vlrun.engine.run_folder import open_run_folder
    from vlrun.runs.export import export_weights

    folder = open_run_folder(Path(arguments.run_folder))
    experiment = load_experiment(folder.config, plugins=plugins)
    averaged = not arguments.without_average
    if not averaged:
        refuse_without_average(experiment)
    return export_weights(folder, experiment, out, plugins, arguments.checkpoint, averaged=averaged)


def _print_layout(report: LayoutReport) -> None:
    for entry in report.left_behind:
        say(f"left behind: {entry}")
    say(f"wrote {report.parameters:,} parameters: {', '.join(map(str, report.files))}")


def _check(arguments: argparse.Namespace) -> int:
    from vlrun.engine.run_folder import open_run_folder
    from vlrun.engine.weight_check import check_file
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    if arguments.overrides and not arguments.experiment:
        raise UsageError("values are laid over an experiment: --experiment EXPERIMENT")
    say(*check_file(arguments.file, plugins, must_compare=not arguments.experiment))
    if arguments.experiment:
        from vlrun.config.experiment import load_experiment
        from vlrun.runs.match_check import check_matching

        path = Path(arguments.experiment)
        file = open_run_folder(path).config if path.is_dir() else path
        experiment = load_experiment(file, arguments.overrides, plugins=plugins)
        lines = check_matching(
            arguments.file, experiment, plugins, label=arguments.task, split=arguments.split, most=arguments.pairs
        )
        say(*lines)
    return 0


def _print(report: ImportReport) -> None:
    for module, count in report.modules.items():
        say(f"{module}: {count} tensors")
    for entry in report.left_behind:
        say(f"left behind: {entry}")
    for remark in report.remarks:
        say(remark)
    say(f"seen in pre-training: {report.seen or 'no images, as far as is known'}")
    if report.features:
        say(f"trained on features of: {report.features}")
    say(f"licence: {report.licence or 'not known'}")
    say(f"wrote {report.out} ({report.parameters:,} parameters) and {report.manifest}")


def _inspect(arguments: argparse.Namespace) -> int:
    from vlrun.engine.weight_sources import find_source
    from vlrun.engine.weight_summary import inspect_weights
    from vlrun.plugins.manager import create_plugins

    summary = inspect_weights(find_source(arguments.file), create_plugins().weight_formats())
    if arguments.json:
        say_json(summary.as_json())
    else:
        say(*summary.lines())
    return 0
