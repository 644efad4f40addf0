"""Every file that is read back: cut, emptied, with a flipped bit, swapped; it is found, or harmless."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from faults.report import FOUND, LOST, SAME, Report
from faults.world import Ended, Facts, World, differences, facts, forked

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
Outcome = Callable[[str, str], None]

REPORTED = ("config.yaml", "status.json", "data.json", "metrics.jsonl", "header.json", "examples/*.json")


def damaged_resumes(world: World, report: Report, stopped: Path, whole: Facts, flips: int, seed: int) -> None:
    """Resumes runs of which one file is damaged."""
    case = stopped.parents[1].name

    def check(done: Ended, name: str, content: bytes, outcome: Outcome) -> None:
        if done.status:
            outcome(FOUND, done.last_line())
            return
        folder = world.folder(case)
        wrong = differences(whole, facts(folder))
        is_said = bool(name) and _says(done, Path(name).name)
        if len(wrong) == 1 and wrong[0].startswith(f"{name}: ") and (folder / name).read_bytes() == content:
            outcome(SAME, "nobody needed it any more: it is as the damage left it")
        else:
            outcome(
                SAME if not wrong else FOUND if is_said else LOST, f"{name}: {', '.join(wrong[:3])}" if wrong else ""
            )

    command = world.arguments(case, "--resume")
    _damage_all(report, "damage, resumed", stopped, RESUMED, command, check, flips, seed)


def damaged_reports(report: Report, finished: Path, flips: int, seed: int) -> None:
    """Reads finished runs of which one file is damaged."""
    command = ["report", "--html", "--json", str(finished)]
    whole = forked(command)

    def check(done: Ended, name: str, content: bytes, outcome: Outcome) -> None:
        if done.status or (name and _says(done, Path(name).name)):
            outcome(FOUND, done.last_line())
        else:
            is_same = done.output == whole.output
            outcome(SAME if is_same else LOST, "" if is_same else f"{name}: other results, silently")

    _damage_all(report, "damage, reported", finished, REPORTED, command, check, flips, seed)


def _damage_all(
    report: Report,
    group: str,
    folder: Path,
    patterns: Sequence[str],
    command: Sequence[str],
    check: Callable[[Ended, str, bytes, Outcome], None],
    flips: int,
    seed: int,
) -> None:
    """Damages the run in ``folder`` in all ways, one after the other; at the end it is as it was."""
    whole = folder.with_name(f".whole-{folder.name}")
    folder.rename(whole)

    def put_back() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder, symlinks=True)

    put_back()
    with report.case(group, "undamaged") as outcome:  # else an error that has nothing to do with damage would pass
        done = forked(command)
        if done.status:
            outcome(LOST, done.last_line())
        else:
            check(done, "", b"", outcome)
    for pattern in patterns:
        files = [path.relative_to(whole) for path in sorted(whole.glob(pattern)) if path.is_file()]
        for name in _chosen(files):
            content = (whole / name).read_bytes()
            others = [other for other in files if other != name and other.suffix == name.suffix]
            other = (whole / (others[0] if others else "status.json")).read_bytes()
            for damaged in damages(content, other, flips, random.Random(seed)):
                put_back()
                (folder / name).write_bytes(damaged)
                with report.case(group, pattern) as outcome:
                    done = forked(command)
                    if done.is_plain:
                        check(done, str(name), damaged, outcome)
                    else:
                        outcome(LOST, f"{name}: status {done.status}; {done.last_line()}")
    shutil.rmtree(folder, ignore_errors=True)
    whole.rename(folder)


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
