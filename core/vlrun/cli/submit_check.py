"""``runner submit-check FILE --for PHASE``: would the evaluation server take this file?"""

from __future__ import annotations

import argparse
from pathlib import Path

from vlrun.errors import DataError, PluginError
from vlrun.foreign.printing import say, say_json
from vlrun.plugins.manager import create_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a file, the phase of the server, and where the expected ids are."""
    parser.add_argument("file", type=Path, metavar="FILE", help="such as one in a run's submission folder")
    parser.add_argument(
        "--for",
        dest="phase",
        metavar="PHASE",
        required=True,
        help="such as vqav2-test-dev; `runner list submissions` has all",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FOLDER",
        help="annotations of the dataset (default: annotations/<dataset> in the data root)",
    )
    parser.add_argument(
        "--questions", type=Path, metavar="FILE", help="an official list of questions, instead of --annotations"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints that the file fits; raises DataError with everything that the server would refuse."""
    plugins = create_plugins()
    wanted = plugins.submissions().get(arguments.phase)
    if wanted is None:
        raise PluginError(plugins.why_missing("submission", arguments.phase))

    from vlrun.config.roots import usual_data_root
    from vlrun.data.submissions import check_submission

    annotations = arguments.annotations
    if annotations is None and arguments.questions is None:
        annotations = usual_data_root() / "annotations" / wanted.dataset
    check = check_submission(arguments.file, wanted, annotations, arguments.questions)
    if arguments.json:
        say_json(check.as_json())
        return 0 if check.is_right else DataError.exit_status
    if not check.is_right:
        raise DataError([f"{check.path}: {check.format} would refuse it:", *(f"  {line}" for line in check.problems)])
    say(f"{check.path}: fits {check.format}: {check.rows:,} entries, exactly the ids of '{check.split}'")
    return 0
