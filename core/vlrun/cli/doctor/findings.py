"""What ``runner doctor`` finds: what it is about, how bad it is, and what helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``; ``note``, good to know; ``warning``, a run may be slow, stop or compute on something else than
            meant; ``error``, what was asked about cannot work.
        about: in a word or two.
        what: what was found.
        where: the file, folder, package or option.
        remedy: what to do about it.
    """

    level: Level
    about: str
    what: str
    where: str = ""
    remedy: str = ""

    def lines(self, width: int) -> list[str]:
        """For people; ``width`` is that of the longest ``about``."""
        where = f"{self.where}: " if self.where else ""
        first, *more = f"{where}{self.what}".splitlines()
        indent = " " * (9 + width)
        lines = [f"{self.level:<8} {self.about:<{width}} {first}", *(f"{indent} {line}" for line in more)]
        return [*lines, *(f"{indent} -> {line}" for line in self.remedy.splitlines())]


def shown(findings: Sequence[Finding]) -> list[str]:
    """All findings in the order in which they were looked for, and how many are bad."""
    width = max((len(finding.about) for finding in findings), default=0)
    lines = [line for finding in findings for line in finding.lines(width)]
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    bad = [f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in ("error", "warning") if counts[level]]
    return [*lines, f"found: {', '.join(bad)}" if bad else "no known problems"]
