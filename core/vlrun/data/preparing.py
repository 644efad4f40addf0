"""Making what an experiment needs of what lies in folders: which step comes next, and carrying the steps out."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlrun.data.needs import Need
from vlrun.data.trees import Found, Tree
from vlrun.errors import DataError, first_few
from vlrun.files import sha256_of
from vlrun.plugins.downloads import Download

Runner = Callable[[list[str]], int]
"""Runs the words after ``runner`` and gives the exit status, as the command line does."""

_STAGED = ".preparing"
_INTERRUPTED = 130
BYTES_PER_IMAGE = 36 * (2048 * 2 + 4 * 4)
"""Of a store of 36 float16 regions with their boxes."""
_IMAGES_PER_SECOND = 1000
"""What one core imports at least."""


def store_cost(images: int) -> str:
    """Disk and time that a store of so many images takes, in words."""
    disk, minutes = images * BYTES_PER_IMAGE / 1e9, images / _IMAGES_PER_SECOND / 60
    return f"the store takes {disk:,.1f} GB and {minutes:,.0f} min at {_IMAGES_PER_SECOND:,} images/s of one core"


@dataclass(frozen=True)
class Step:
    """A need that is not there, and the files found that it can be made of, the likeliest first."""

    need: Need
    candidates: tuple[Found, ...]

    @property
    def commands(self) -> list[str]:
        """What would be run, ready to be pasted."""
        return [shown(candidate.command(self.need.target)) for candidate in self.candidates]


@dataclass(frozen=True)
class Made:
    """What became of a step: the files it took, and whether all that the experiment needs of it is there now."""

    need: Need
    taken: Found | None
    is_there: bool


def plan(needs: Sequence[Need], trees: Sequence[Tree], downloads: Mapping[str, Download]) -> list[Step]:
    """A step for each need that is not there, with candidates from all trees."""
    steps = []
    for need in needs:
        if need.is_there:
            continue
        found = [
            candidate
            for download in need.fitting(downloads)
            for tree in trees
            for candidate in tree.find(download)
            if need.target not in candidate.sources
        ]
        if need.kind != "annotations":
            found.sort(key=lambda candidate: len(candidate.absent))
        steps.append(Step(need, _distinct(found)))
    return steps


def _distinct(candidates: Sequence[Found]) -> tuple[Found, ...]:
    """The same files may be found in two folders, one of which is in the other."""
    by_source = {
        (candidate.download.name, tuple(source.resolve() for source in candidate.sources)): candidate
        for candidate in reversed(candidates)
    }
    return tuple(reversed(by_source.values()))


def prepare(steps: Sequence[Step], run: Runner, say: Callable[[str], None]) -> Iterator[Made]:
    """Carries the steps out, one after the other; one that fails has said why and stops no other."""
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.need.kind}: {step.need.target}")
        if not step.candidates:
            say("  nothing that it can be made of was found")
            yield Made(step.need, None, is_there=False)
            continue
        makers = {"vocabulary": _copy, "annotations": _build_annotations}
        taken = None
        try:
            taken = makers.get(step.need.kind, _make)(step, run, say)
        except OSError as error:
            say(f"  {error.filename or step.need.target}: {error.strerror or error}")
        if taken is not None and taken.absent:
            say(f"  not there, and so left out: {', '.join(first_few(taken.absent, 5))}")
        yield Made(step.need, taken, step.need.is_there)


def _make(step: Step, run: Runner, say: Callable[[str], None]) -> Found | None:
    chosen = step.candidates[0]
    return chosen if _run(chosen.command(step.need.target), run, say) else None


def _run(command: list[str], run: Runner, say: Callable[[str], None]) -> bool:
    say(f"  $ {shown(command)}")
    status = run(command)
    if status == _INTERRUPTED:  # the command has caught it, and the steps after it are not wanted either
        raise KeyboardInterrupt
    return status == 0


def _copy(step: Step, run: Runner, say: Callable[[str], None]) -> Found | None:
    """Copies a file, unless files found differ: guessing wrong would be a silently wrong vocabulary."""
    files = {sha256_of(candidate.sources[0]): candidate for candidate in reversed(step.candidates)}
    if len(files) > 1:
        places = ", ".join(str(candidate.sources[0]) for candidate in step.candidates)
        say(f"  {places} differ; copy the right one yourself: cp FILE {step.need.target}")
        return None
    (chosen,) = files.values()
    say(f"  $ {shown(chosen.command(step.need.target))}")
    step.need.target.parent.mkdir(parents=True, exist_ok=True)
    partial = step.need.target.with_name(f".{step.need.target.name}.part")
    shutil.copyfile(chosen.sources[0], partial)
    partial.replace(step.need.target)
    return chosen


def _build_annotations(step: Step, run: Runner, say: Callable[[str], None]) -> Found | None:
    """Of several sources the one that has most of the splits that are missing, or most splits."""
    if len(step.candidates) == 1:
        return _make(step, run, say)
    target = step.need.target
    built = []
    for number, candidate in enumerate(step.candidates):
        staged = target.with_name(f"{_STAGED}-{target.name}-{number}")
        shutil.rmtree(staged, ignore_errors=True)
        if _run(candidate.command(staged), run, say):
            wanted = sum((staged / file.path.name).exists() for file in step.need.files)
            built.append((wanted, len(list(staged.glob("*.jsonl"))), -number, staged, candidate))
    if not built:
        return None
    *_, best, chosen = max(built)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(best.iterdir()):
        path.replace(target / path.name)
    for number in range(len(step.candidates)):
        shutil.rmtree(target.with_name(f"{_STAGED}-{target.name}-{number}"), ignore_errors=True)
    say(f"  took {chosen.sources[0]} as {chosen.download.source}: of what was found, it has most of what is needed")
    return chosen


def shown(command: Sequence[str]) -> str:
    """A command as a shell takes it."""
    words = shlex.join(command)
    return words if command[0] in ("cp", "runner") else f"runner {words}"


def taken_lines(made: Sequence[Made]) -> list[str]:
    """What was taken for what."""
    return [
        f"{item.need.target} <- {', '.join(map(str, item.taken.sources))} ({item.taken.download.name})"
        for item in made
        if item.taken is not None
    ]


def left_lines(trees: Sequence[Tree], made: Sequence[Made]) -> list[str]:
    """Of what nothing was made, folder by folder."""
    taken = [item.taken for item in made if item.taken is not None]
    lines = []
    for tree in trees:
        lines += [
            f"{folder}: nothing was made of {len(names):,} files: {', '.join(first_few(sorted(names), 3))}"
            for folder, names in tree.left_over(taken).items()
        ]
        lines += [f"{problem}: not looked through" for problem in tree.unread]
    return first_few(lines, 12)


def check_folders(folders: Sequence[Path]) -> None:
    """Raises DataError where a folder that a user names is none."""
    wrong = [f"{folder} is {'a file; unpack it first' if folder.is_file() else 'not there'}" for folder in folders]
    if problems := [text for folder, text in zip(folders, wrong, strict=True) if not folder.is_dir()]:
        raise DataError(problems)


__all__ = ["Made", "Step", "check_folders", "left_lines", "plan", "prepare", "shown", "taken_lines"]
