"""``runner compare RUN RUN``: the difference of two runs on the same examples, and how sure it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.errors import UsageError
from vlrun.foreign.printing import say_json
from vlrun.plugins.manager import create_plugins

if TYPE_CHECKING:
    from vlrun.reporting.tables import TextTable
    from vlrun.runs.compare import Difference

_FEWEST_SAMPLES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes two runs and how to compare them."""
    parser.add_argument("first", type=Path, metavar="RUN", help="a run folder, such as runs/<experiment>/latest")
    parser.add_argument("second", type=Path, metavar="RUN", help="another one; differences are this less the first")
    samples = "how often the examples are drawn anew (default: 2000)"
    parser.add_argument("--samples", type=int, default=2_000, metavar="N", help=samples)
    despite = "compare scores whose protocols differ, too, and say in what"
    parser.add_argument("--despite-protocols", action="store_true", help=despite)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints the difference of each score with its interval."""
    from vlrun.reporting.tables import print_table
    from vlrun.runs.compare import compare_runs

    if arguments.samples < _FEWEST_SAMPLES:
        raise UsageError(f"--samples {arguments.samples}: an interval needs {_FEWEST_SAMPLES} at least")
    for folder in (arguments.first, arguments.second):
        if not (folder / "config.yaml").is_file():
            raise UsageError(f"{folder} is no run folder (it has no config.yaml); `runner report` lists runs")
    found = compare_runs(
        arguments.first.resolve(),
        arguments.second.resolve(),
        create_plugins(),
        samples=arguments.samples,
        despite_protocols=arguments.despite_protocols,
    )
    if arguments.json:
        runs = [str(folder.resolve()) for folder in (arguments.first, arguments.second)]
        say_json({"runs": runs, "differences": [each.as_json() for each in found]}, default=str)
        return 0
    print_table(_table(found, arguments.samples))
    return 0


def _table(found: Sequence[Difference], samples: int) -> TextTable:
    from vlrun.foreign.printing import plain
    from vlrun.reporting.options import shown
    from vlrun.reporting.tables import TextTable
    from vlrun.reporting.wording import difference_text, score_text

    rows = [
        [
            each.task,
            each.split,
            each.name,
            score_text(each.first, each.unit),
            score_text(each.second, each.unit),
            difference_text(each.value, each.unit),
            "-"
            if each.low is None or each.high is None
            else f"{difference_text(each.low, each.unit)} to {difference_text(each.high, each.unit)}",
            "-" if each.p is None else f"{each.p:.2g}",
            f"{each.units:,}" if each.units else "-",
        ]
        for each in found
    ]
    headers = ["task", "split", "score", "first", "second", "difference", "95 % interval", "p", "units"]
    notes = [
        f"second less first; paired bootstrap over examples, {samples:,} samples; -: the score is no mean of units"
    ]
    differing = {
        f"The protocols differ in {key}: {shown(one)} in the first, {shown(other)} in the second"
        for each in found
        for key, (one, other) in (each.protocols or {}).items()
    }
    cells = [[plain(cell) for cell in row] for row in rows]
    return TextTable(headers, cells, headers[3:], [*notes, *map(plain, sorted(differing))])
