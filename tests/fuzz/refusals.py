"""Reading on after a refusal, so that damage does its worst, and raising it in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vlrun.errors import DataError


def by_all(reads: Iterable[Callable[[], object]]) -> None:
    """Reads in all ways, and raises the first refusal."""
    if refusals := _refusals(reads):
        raise refusals[0]


def by_any(reads: Iterable[Callable[[], object]]) -> None:
    """Reads in all ways, and raises the first refusal if all refuse: for files that are right for some."""
    refusals = _refusals(reads := [*reads])
    if len(refusals) == len(reads):
        raise refusals[0]


def _refusals(reads: Iterable[Callable[[], object]]) -> list[DataError]:
    refusals = []
    for read in reads:
        try:
            read()
        except DataError as error:
            refusals.append(error)
    return refusals
