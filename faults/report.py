"""What the injected faults have shown: one row for each kind of fault, and every case that went wrong in full."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vlrun.files import write_json
from vlrun.reporting.tables import TextTable, print_table

SAME, FOUND, LOST = "same", "found", "LOST"
"""The numbers are those of the whole run; a clear message said what is wrong; anything else."""


@dataclass(frozen=True)
class Case:
    """One injected fault.

    Attributes:
        group: the part of the suite, such as ``kills``.
        kind: what was done, such as the moment of a kill or a file.
        outcome: SAME, FOUND or LOST.
        detail: what was said, or what differs.
    """

    group: str
    kind: str
    outcome: str
    detail: str = ""


@dataclass
class Report:
    """All cases so far; written after each, so that an interrupted suite leaves what it knows."""

    path: Path
    cases: list[Case] = field(default_factory=list)

    def add(self, group: str, kind: str, outcome: str, detail: str = "") -> None:
        """Adds a case, and says so if it is a bad one."""
        self.cases.append(Case(group, kind, outcome, detail))
        write_json(self.path, [asdict(case) for case in self.cases])
        if outcome == LOST:
            print(f"  {group}, {kind}: {detail}", flush=True)

    @contextmanager
    def case(self, group: str, kind: str) -> Iterator[Callable[[str, str], None]]:
        """A case whose checks may fail themselves, which is a bad outcome, too."""
        try:
            yield lambda outcome, detail="": self.add(group, kind, outcome, detail)
        except Exception as error:
            self.add(group, kind, LOST, f"{type(error).__name__}: {error}")

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost."""
        return not any(case.outcome == LOST for case in self.cases)

    def show(self) -> None:
        """Prints the table."""
        counts = Counter((case.group, case.kind, case.outcome) for case in self.cases)
        kinds = list(dict.fromkeys((case.group, case.kind) for case in self.cases))
        columns = ("fault", "kind", "injected", "same numbers", "clear message", "lost")
        rows = []
        for group, kind in kinds:
            each = [counts[group, kind, outcome] for outcome in (SAME, FOUND, LOST)]
            rows.append([group, kind, str(sum(each)), *(str(number) if number else "-" for number in each)])
        totals = [sum(counts[key] for key in counts if key[2] == outcome) for outcome in (SAME, FOUND, LOST)]
        rows.append(["all", "", str(len(self.cases)), *map(str, totals)])
        print_table(TextTable(list(columns), rows, set(columns[2:])))


def read_report(path: Path) -> Report:
    """A report that was written before."""
    return Report(path, [Case(**case) for case in json.loads(path.read_text())])
