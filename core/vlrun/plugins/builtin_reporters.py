"""The built-in reporters, on the same hook as those of plugins; all are on unless an experiment names others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vlrun.config.base import ReporterConfig
from vlrun.plugins.entries import Entry

if TYPE_CHECKING:
    from vlrun.interfaces.reporter import Reporter


class ConsoleConfig(ReporterConfig):
    """Options of the console."""

    name: str = "console"
    stream: Literal["stdout", "stderr"] = Field("stdout", description="where to write")
    every_seconds: float = Field(5.0, ge=0, description="least time between two lines of training, without a terminal")


class LogConfig(ReporterConfig):
    """Options of the log file."""

    name: str = "log"


class JsonLinesConfig(ReporterConfig):
    """Options of metrics.jsonl."""

    name: str = "jsonl"


class TensorBoardConfig(ReporterConfig):
    """Options of the TensorBoard files."""

    name: str = "tensorboard"


class HtmlConfig(ReporterConfig):
    """Options of report.html."""

    name: str = "html"


def build_console(config: ConsoleConfig) -> Reporter:
    import sys

    from vlrun.reporting.console import ConsoleReporter

    return ConsoleReporter(getattr(sys, config.stream), every_seconds=config.every_seconds)


def build_log(config: LogConfig) -> Reporter:
    from vlrun.reporting.log import LogReporter

    return LogReporter()


def build_jsonl(config: JsonLinesConfig) -> Reporter:
    from vlrun.reporting.jsonl import JsonLinesReporter

    return JsonLinesReporter()


def build_tensorboard(config: TensorBoardConfig) -> Reporter:
    from vlrun.reporting.tensorboard import TensorBoardReporter

    return TensorBoardReporter()


def build_html(config: HtmlConfig) -> Reporter:
    from vlrun.reporting.html import HtmlReporter

    return HtmlReporter()


BUILTIN_REPORTERS: list[Entry[Any]] = [
    Entry("console", "live panel on a terminal, plain lines elsewhere", ConsoleConfig, build_console),
    Entry("log", "log.txt, lines with the time", LogConfig, build_log),
    Entry("jsonl", "metrics.jsonl, every step and score for programs", JsonLinesConfig, build_jsonl),
    Entry("tensorboard", "tensorboard/, curves", TensorBoardConfig, build_tensorboard),
    Entry("html", "report.html, one page with results, curves and recipe", HtmlConfig, build_html),
]
