"""Options of the built-in reporters, which work unless ``built_in_reporters`` is false."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlrun.config.base import ReporterConfig


class ConsoleConfig(ReporterConfig):
    """Options of the console."""

    name: str = "console"
    stream: Literal["stdout", "stderr"] = Field("stdout", description="where to write")


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
