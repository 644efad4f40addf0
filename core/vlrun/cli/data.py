"""``runner data``: gets and makes what experiments need, above all annotation files, and checks it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlrun.cli import data_get, data_prepare
from vlrun.errors import DataError, UsageError, first_few
from vlrun.foreign.printing import say, say_json
from vlrun.plugins.entries import Builder, Entry
from vlrun.plugins.manager import create_plugins

IDENTITIES = "image-identities"
"""What `data build` calls the table of image identities, which is made of official files as datasets are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes one of the actions list, status, get, prepare, build, validate, schema and sources."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    data_get.add_list_arguments(actions.add_parser("list", help="list what others publish, and where"))
    data_prepare.add_status_arguments(actions.add_parser("status", help="what an experiment needs and lacks"))
    data_get.add_get_arguments(actions.add_parser("get", help="download published files, resumable, and check them"))
    data_prepare.add_prepare_arguments(
        actions.add_parser("prepare", help="make all that an experiment needs of what is found")
    )

    build = actions.add_parser("build", help="make annotation files from official ones")
    build.add_argument(
        "dataset",
        metavar="DATASET",
        help=f"name of a dataset, as `runner list datasets` shows it; or {IDENTITIES}, the table of images that COCO, "
        "Visual Genome and Flickr have in common",
    )
    build.add_argument("--from", dest="source", metavar="SOURCE", required=True, help="see `runner data sources`")
    build.add_argument("path", metavar="PATH", type=Path, help="the source file or folder")
    build.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help="folder for one .jsonl file per split; for the identities, data_root",
    )
    build.add_argument(
        "--replace", action="store_true", help="replace files in OUT that were built from another source"
    )

    validate = actions.add_parser("validate", help="check every line of annotation files")
    validate.add_argument("dataset", metavar="DATASET", help="name of the dataset whose schema the lines have")
    validate.add_argument("files", metavar="FILE", type=Path, nargs="+", help=".jsonl files, or folders with them")

    schema = actions.add_parser("schema", help="print the JSON schema of one line of an annotation file")
    schema.add_argument("dataset", metavar="DATASET", help="name of a dataset")

    sources = actions.add_parser("sources", help="list the sources that datasets can be built from")
    sources.add_argument("dataset", metavar="DATASET", nargs="?", help="only this dataset")
    sources.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Does the action; one that finds problems raises DataError."""
    actions = {
        "list": data_get.show_list,
        "status": data_prepare.status,
        "get": data_get.get,
        "prepare": data_prepare.prepare,
        "build": _build,
        "validate": _validate,
        "schema": _schema,
        "sources": _sources,
    }
    return actions[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from vlrun.data.build_progress import progress_told_to
    from vlrun.data.building import build_annotations
    from vlrun.reporting.progress import progress_on_stderr

    if arguments.dataset == IDENTITIES:
        return _build_identities(arguments)
    builder = _builder(_dataset(arguments.dataset), arguments.source)
    if not arguments.path.exists():
        raise DataError(f"{arguments.path} does not exist; '{builder.source}' reads {builder.summary}")
    with progress_on_stderr() as reporters, progress_told_to(reporters.progress):
        report = build_annotations(builder, arguments.path, arguments.output, replace=arguments.replace)
    for split, count in report.counts.items():
        say(f"{arguments.output / split}.jsonl  {count:,} examples")
    for remark in report.remarks:
        say(f"note: {remark}")
    return 0


def _build_identities(arguments: argparse.Namespace) -> int:
    from vlrun.config.experiment import IDENTITIES_FILE
    from vlrun.data.identity_sources import SOURCE, build_identities

    if arguments.source != SOURCE:
        raise UsageError(f"{IDENTITIES} cannot be built from '{arguments.source}'; its only source is '{SOURCE}'")
    report = build_identities(arguments.path, arguments.output / IDENTITIES_FILE)
    say(f"{report.path}  {report.images:,} images with more than one name")
    for pair, count in report.shared.items():
        say(f"{count:,} images are in {' and in '.join(pair)}")
    for remark in report.remarks:
        say(f"note: {remark}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from vlrun.data.annotations import validate_annotations

    if arguments.dataset == IDENTITIES:
        return _validate_identities(arguments.files)
    record = _record(_dataset(arguments.dataset))
    problems = []
    for path in _files(arguments.files):
        file_problems = validate_annotations(path, record)
        say(f"{path}: {f'{len(file_problems):,} problems' if file_problems else 'ok'}")
        problems += file_problems
    if problems:
        raise DataError(first_few(problems))
    return 0


def _validate_identities(files: list[Path]) -> int:
    from vlrun.data.identities import read_identities

    for path in files:
        read_identities(path)
        say(f"{path}: ok")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    say_json(_record(_dataset(arguments.dataset)).model_json_schema())
    return 0


def _sources(arguments: argparse.Namespace) -> int:
    from vlrun.data.identity_sources import OBTAIN, SOURCE, SUMMARY

    with_identities = arguments.dataset in (None, IDENTITIES)
    entries = [] if arguments.dataset == IDENTITIES else _entries(arguments.dataset)
    rows = [
        {"dataset": entry.name, "source": builder.source, "summary": builder.summary}
        for entry in entries
        for builder in entry.builders
    ]
    if with_identities:
        rows.append({"dataset": IDENTITIES, "source": SOURCE, "summary": SUMMARY})
    if arguments.json:
        say_json(rows)
        return 0
    for entry in entries:
        say(f"{entry.name}: {entry.obtain or entry.summary}")
        for builder in entry.builders:
            say(f"    --from {builder.source}: {builder.summary}")
    if with_identities:
        say(f"{IDENTITIES}: {OBTAIN}", f"    --from {SOURCE}: {SUMMARY}")
    return 0


def _entries(name: str | None) -> list[Entry]:
    return [_dataset(name)] if name else create_plugins().entries("dataset")


def _dataset(name: str) -> Entry:
    return create_plugins().find("dataset", name)


def _builder(entry: Entry, source: str) -> Builder:
    for builder in entry.builders:
        if builder.source == source:
            return builder
    sources = "".join(f"\n  {builder.source}: {builder.summary}" for builder in entry.builders) or " none"
    raise UsageError(f"dataset '{entry.name}' cannot be built from '{source}'; its sources are:{sources}")


def _record(entry: Entry) -> Any:
    if entry.record is None:
        raise UsageError(f"dataset '{entry.name}' publishes no schema of its annotation files")
    return entry.load_record()


def _files(paths: list[Path]) -> list[Path]:
    """The named files, and the .jsonl files in the named folders."""
    files = []
    for path in paths:
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: there is no .jsonl file in this folder")
        files += inside
    return files
