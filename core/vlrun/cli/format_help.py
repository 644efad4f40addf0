"""A ``--help`` that lists the formats that the installed plugins read, which are looked up when it is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from vlrun.foreign.printing import say
from vlrun.plugins.entries import FeatureFormat, WeightFormat
from vlrun.plugins.manager import Plugins, create_plugins

Formats = Callable[[Plugins], Iterable[FeatureFormat | WeightFormat]]


class HelpWithFormats(argparse.Action):
    """Prints the help and below it all formats."""

    def __init__(self, option_strings: list[str], dest: str, formats: Formats, **others: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **others)
        self.formats = formats

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        """Prints and leaves."""
        parser.print_help()
        listed = {each.name: each.summary for each in self.formats(create_plugins())}
        width = max(map(len, listed), default=0)
        say("", "formats:")
        for name, summary in sorted(listed.items()):
            say(f"  {name:<{width}}  {summary}")
        parser.exit()


def add_help(parser: argparse.ArgumentParser, formats: Formats) -> None:
    """Adds -h and --help to a parser that was made without them."""
    parser.add_argument(
        "-h", "--help", action=HelpWithFormats, formats=formats, help="show this help message and all formats, and exit"
    )
