"""What the quick commands cost: ``python benchmarks/startup.py``.

`runner list-plugins` should take at most three times as long as the interpreter with the standard modules that it
needs; both are measured here in one run, by turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = 11
LIMIT = 3.0
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "argparse, pluggy, importlib.metadata": ["-c", "import argparse, pluggy, importlib.metadata"],
    "runner list-plugins": ["-m", "vlrun", "list-plugins"],
    "runner --help": ["-m", "vlrun", "--help"],
    "runner run --help": ["-m", "vlrun", "run", "--help"],
    "completion of a verb": ["-m", "vlrun"],
    "completion of a dotted key": ["-m", "vlrun"],
}
LINES = {
    "completion of a verb": "runner li",
    "completion of a dotted key": "runner run experiments/rosita_vqa.yaml train.",
}


def seconds(name: str) -> float:
    environment = dict(os.environ)
    with tempfile.NamedTemporaryFile() as answers:
        if line := LINES.get(name):
            asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
            environment.update(asked, _ARGCOMPLETE_STDOUT_FILENAME=answers.name)
        started = time.perf_counter()
        subprocess.run([sys.executable, *COMMANDS[name]], check=True, stdout=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - started


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, values in taken.items():
            values.append(seconds(name))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    base = medians["argparse, pluggy, importlib.metadata"]
    for name, median in medians.items():
        print(f"{name:<40} {1000 * median:6.0f} ms  {median / base:5.2f} x")
    ratio = medians["runner list-plugins"] / base
    print(f"list-plugins: {ratio:.2f} x, {'within' if ratio <= LIMIT else 'above'} the limit of {LIMIT:g} x")


if __name__ == "__main__":
    main()
