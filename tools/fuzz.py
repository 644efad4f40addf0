"""Damages files at random and reads them: `make fuzz`, the long form of tests/fuzz.

A reader may refuse a file with one of the project's own errors. Anything else is a finding: it is counted by the kind
of error and the line that raised it, kept with the input that was first to show it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "fuzz"), str(ROOT / "tests" / "core" / "features")]

from damage import damaged  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies  # noqa: E402
from readers import READERS, Reader  # noqa: E402

from vlrun.errors import RunnerError  # noqa: E402
from vlrun.foreign.printing import plain, say  # noqa: E402
from vlrun.reporting.tables import TextTable, print_table  # noqa: E402

SLOW_SECONDS = 10.0
"""From here on an input counts as one on which a reader hangs."""

_AT_ONCE = 50
"""Files damaged with the same random numbers: hypothesis takes longer to draw these than most readers to read."""


def fuzz(reader: Reader, inputs: int, start: int, folder: Path) -> dict[str, Any]:
    """Reads so many damaged files and counts what comes of it."""
    seeds = reader.seeds(folder)
    counts: Counter[str] = Counter()
    findings: dict[str, dict[str, Any]] = {}
    slowest = 0.0

    def found(what: str, content: bytes) -> None:
        counts["findings"] += 1
        first = {"count": 0, "input": base64.b64encode(content[:100_000]).decode()}
        findings.setdefault(what, first)["count"] += 1

    def read(content: bytes) -> None:
        nonlocal slowest
        counts["inputs"] += 1
        place = Path(tempfile.mkdtemp(dir=folder))
        started = time.process_time()
        try:
            reader.read(content, place)
            counts["read"] += 1
        except RunnerError as error:
            counts["refused"] += 1
            if any(character in plain(str(error)) for character in "\x1b\x9b"):
                found("a control character in a message", content)
        except Exception as error:
            found(_place(error), content)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        seconds = time.process_time() - started
        slowest = max(slowest, seconds)
        if seconds > SLOW_SECONDS:
            found(f"took {seconds:.0f} s", content)

    @seed(start)
    @settings(
        max_examples=-(-inputs // _AT_ONCE),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategies.randoms(use_true_random=True))
    def read_some(rng: Random) -> None:
        for _ in range(_AT_ONCE):
            read(damaged(rng, seeds))

    started = time.monotonic()
    read_some()
    seconds = time.monotonic() - started
    row = {"reader": reader.name, **{name: counts[name] for name in ("inputs", "read", "refused", "findings")}}
    return {**row, "slowest_seconds": round(slowest, 2), "seconds": round(seconds), "kinds": findings}


def _place(error: Exception) -> str:
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "vlrun" in frame.filename]
    frame = own[-1] if own else traceback.extract_tb(error.__traceback__)[-1]
    message = re.sub(r"[0-9a-f]*[0-9][0-9a-f]*|/[^']*", "*", str(error)[:100])  # one kind, whatever the numbers are
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {message!r}"


def main() -> int:
    """Prints a table, and writes it with all findings to --out."""
    parser = argparse.ArgumentParser(description="Read damaged files and count what is not refused as it should be.")
    parser.add_argument("readers", nargs="*", help="parts of the names of readers (default: all)")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader (default: 100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"), help="(default: fuzz.json)")
    arguments = parser.parse_args()
    chosen = [reader for reader in READERS if not arguments.readers or any(n in reader.name for n in arguments.readers)]
    memory = Path("/dev/shm")  # noqa: S108 - hundreds of small files a second
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        for number, reader in enumerate(chosen):
            folder = Path(name, str(number))
            folder.mkdir()
            rows.append(fuzz(reader, arguments.inputs, arguments.seed, folder))
            shutil.rmtree(folder)
            arguments.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")
            row = rows[-1]
            what = f"{row['inputs']:,} inputs in {row['seconds']} s, {row['findings']:,} findings"
            say(f"{row['reader']}: {what}", to=sys.stderr)
            for what, kind in row["kinds"].items():
                say(f"    {kind['count']:,} x {what}", to=sys.stderr, flush=True)
    columns = ("inputs", "read", "refused", "findings", "slowest_seconds", "seconds")
    cells = [[row["reader"], *(f"{row[column]:,}" for column in columns)] for row in rows]
    print_table(TextTable(("reader", *columns), cells, columns))
    return int(any(row["findings"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
