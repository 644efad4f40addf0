"""Reads what a run folder says about its run, from status.json, config.yaml and metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrun.files import read_object_or_empty
from vlrun.foreign.yaml import parse_mapping
from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.checked import is_damaged_object, read_checked, write_checked
from vlrun.reporting.hashes import is_damaged
from vlrun.reporting.jsonl import FILE_NAME, missing_lines, read_metrics
from vlrun.reporting.published import result_row

HEADER_NAME = "header.json"


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder describes it.

    Attributes:
        status: running, done, stopped or failed; ``unknown`` without a readable status.json.
        rows: the final results, each once, with the published numbers of the experiment.
        config: the resolved options; empty if they cannot be read.
        started, finished: times as text, empty where unknown.
        damage: files that are not what the run has written, in words; what is damaged in them is left out.
    """

    folder: Path
    experiment: str
    status: str
    message: str
    is_demo: bool
    step: int
    total_steps: int
    started: str
    finished: str
    rows: Sequence[ResultRow]
    config: Mapping[str, Any] = field(default_factory=dict)
    damage: Sequence[str] = ()


def is_run_folder(folder: Path) -> bool:
    """Whether ``folder`` holds a run, complete or not."""
    return any((folder / name).is_file() for name in ("status.json", FILE_NAME))


def read_run(folder: Path) -> RunRecord:
    """Reads a run folder; that of a killed run may lack files or hold damaged ones, which are taken as empty."""
    status = read_checked(folder / "status.json")
    config = _read_config(folder)
    is_demo = bool(status.get("demo") or config.get("demo"))
    damaged: list[int] = []
    lines = list(read_metrics(folder / FILE_NAME, lambda number, _: damaged.append(number)))
    rows = _final_rows(lines, {**config, "demo": is_demo}, read_object_or_empty(folder / "data.json"))
    return RunRecord(
        folder=folder,
        experiment=str(status.get("experiment") or config.get("name") or folder.parent.name),
        status=str(status.get("status") or "unknown"),
        message=str(status.get("message") or ""),
        is_demo=is_demo,
        step=_whole(status.get("step")),
        total_steps=_whole(status.get("total_steps")),
        started=str(status.get("started") or ""),
        finished=str(status.get("finished") or ""),
        rows=rows,
        config=config,
        damage=[*_damage_of_metrics(folder / FILE_NAME, status, lines, len(rows), len(damaged)), *_damage(folder)],
    )


def _damage_of_metrics(
    path: Path, status: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], results: int, damaged: int
) -> list[str]:
    """What is damaged in it or missing, as far as the status of a run that has ended tells.

    Args:
        results: number of final ones.
        damaged: number of lines that are left out.
    """
    damage = [f"{path}: {damaged:,} damaged lines are left out"] if damaged else []
    wanted = status.get("results")  # None if the run goes on, or an earlier version has not written it
    if isinstance(wanted, int) and path.exists():
        if not damaged and (missing := missing_lines(lines, _whole(status.get("step")))):
            damage.append(f"{path}: {missing}")
        if results < wanted:
            damage.append(f"{path}: damaged, {wanted - results:,} of {wanted:,} final results are missing")
    return damage


def _damage(folder: Path) -> list[str]:
    """Other files that are damaged."""
    damage = [
        f"{folder / name}: damaged, or changed" for name in ("config.yaml", "data.json") if is_damaged(folder, name)
    ]
    objects = [folder / "status.json", folder / HEADER_NAME, *sorted((folder / "examples").glob("*.json"))]
    return damage + [f"{path}: damaged, and left out" for path in objects if is_damaged_object(path)]


def write_header(folder: Path, facts: Sequence[tuple[str, str]]) -> None:
    """Keeps the facts that a run states before its first step, so that its page can be rewritten later."""
    write_checked(folder / HEADER_NAME, {"facts": [list(fact) for fact in facts]})


def read_header(folder: Path) -> list[tuple[str, str]]:
    """Reads the facts that ``write_header`` kept; none if there is no such file, or if it is damaged."""
    facts = read_checked(folder / HEADER_NAME).get("facts")
    whole = [fact for fact in facts if isinstance(fact, list) and len(fact) == 2] if isinstance(facts, list) else []
    return [(str(label), str(value)) for label, value in whole]


def config_text(folder: Path) -> str:
    """The text of a run's configuration; empty if it cannot be read."""
    try:
        return (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def score_of(line: Mapping[str, Any]) -> Score:
    """The score of a result line of ``metrics.jsonl``."""
    value, protocol = _number(line.get("value")), line.get("protocol")
    return Score(
        name=str(line.get("name", "")),
        value=math.nan if value is None else value,
        unit=str(line.get("unit", "")),
        count=_whole(line.get("count")),
        protocol=protocol if isinstance(protocol, dict) else {},
        primary=bool(line.get("primary")),
        higher_is_better=line.get("higher_is_better") is not False,
        detail=bool(line.get("detail")),
        standard_error=_number(line.get("standard_error")),
    )


def _final_rows(
    lines: Sequence[Mapping[str, Any]], config: Mapping[str, Any], data: Mapping[str, Any]
) -> list[ResultRow]:
    rows: dict[tuple[str, str, str], ResultRow] = {}
    for line in lines:
        if line["kind"] == "result" and line.get("final"):
            key = (str(line.get("task", "")), str(line.get("split", "")), str(line.get("name", "")))
            rows[key] = result_row(config, data, key[0], key[1], score_of(line))  # the last evaluation counts
    return list(rows.values())


def _read_config(folder: Path) -> Mapping[str, Any]:
    return parse_mapping(config_text(folder))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
