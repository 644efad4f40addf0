"""Every file that is read back: cut, emptied, with a flipped bit, swapped; it is found, or harmless."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from faults.report import FOUND, LOST, SAME, Report
from faults.world import SHORT, Ended, Facts, World, differences, facts, forked

RESUMED = (
    "config.yaml",
    "status.json",
    "data.json",
    "evaluations.json",
    "metrics.jsonl",
    "header.json",
    "negatives/*.npz",
    "checkpoints/step_*/*",
    "scores/*",
)
REPORTED = ("config.yaml", "status.json", "data.json", "metrics.jsonl", "header.json", "examples/*.json")


def damaged_resumes(world: World, report: Report, stopped: Path, whole: Facts, flips: int, seed: int) -> None:
    """Resumes runs of which one file is damaged."""
    command = ["run", str(world.config), *SHORT, "--resume", "--output"]

    def check(folder: Path, done: Ended, name: str, outcome: Callable[[str, str], None]) -> None:
        if done.status:
            outcome(FOUND, done.last_line())
            return
        wrong = differences(whole, facts(world.folder(folder.parents[1].name)))
        if wrong and not _says(done, name):
            outcome(LOST, f"silently other: {', '.join(wrong[:3])}")
        else:
            outcome(FOUND if wrong else SAME, ", ".join(wrong[:3]))

    _damage_all(
        world,
        report,
        "damage, resumed",
        stopped,
        RESUMED,
        lambda folder: [*command, str(folder.parents[1])],
        check,
        flips,
        seed,
    )


def damaged_reports(world: World, report: Report, finished: Path, flips: int, seed: int) -> None:
    """Reads finished runs of which one file is damaged."""
    whole = forked(["report", "--json", str(finished)])

    def check(folder: Path, done: Ended, name: str, outcome: Callable[[str, str], None]) -> None:
        if done.status or _says(done, name):
            outcome(FOUND, done.last_line())
        elif _results(done, folder) != _results(whole, finished):
            outcome(LOST, "other results, silently")
        else:
            outcome(SAME, "")

    _damage_all(
        world,
        report,
        "damage, reported",
        finished,
        REPORTED,
        lambda folder: ["report", "--json", str(folder)],
        check,
        flips,
        seed,
    )


def _damage_all(
    world: World,
    report: Report,
    group: str,
    source: Path,
    patterns: Sequence[str],
    command: Callable[[Path], list[str]],
    check: Callable[[Path, Ended, str, Callable[[str, str], None]], None],
    flips: int,
    seed: int,
) -> None:
    case = group.replace(", ", "-")
    for pattern in patterns:
        files = [path.relative_to(source) for path in sorted(source.glob(pattern)) if path.is_file()]
        for name in _chosen(files):
            content = (source / name).read_bytes()
            others = [other for other in files if other != name and other.suffix == name.suffix]
            other = (source / others[0]).read_bytes() if others else (source / "status.json").read_bytes()
            for damaged in damages(content, other, flips, random.Random(seed)):
                folder = world.copy(source, case)
                (folder / name).write_bytes(damaged)
                with report.case(group, pattern) as outcome:
                    done = forked(command(folder))
                    if not done.is_plain:
                        outcome(LOST, f"{name}: status {done.status}; {done.last_line()}")
                    else:
                        check(folder, done, name.name, outcome)
                world.forget(case)


def _chosen(files: Sequence[Path]) -> list[Path]:
    """The newest of files that are alike: those of the last checkpoint."""
    return list({path.name: path for path in files}.values())


def damages(content: bytes, other: bytes, flips: int, rng: random.Random) -> Iterator[bytes]:
    """Emptied, cut, swapped with another, and with one bit flipped at places all over it."""
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1]
    yield other
    for number in range(min(flips, len(content))):
        place = rng.randrange(len(content) * number // flips, max(1, len(content) * (number + 1) // flips) or 1)
        yield content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _says(done: Ended, name: str) -> bool:
    return name in done.output and any(word in done.output for word in ("damaged", "cannot be read", "not readable"))


def _results(done: Ended, folder: Path) -> object:
    text = done.output.replace(str(folder), "RUN")
    with suppress(ValueError):
        return json.loads(text)
    return text
