"""How long quick commands take to start, beside the interpreter with the modules that every command line needs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from vlrun.interfaces.measurement import Measurement

_REPEATS = 5
_BARE = "python with argparse, pluggy and importlib.metadata"
_COMMANDS = {
    _BARE: ["-c", "import argparse, pluggy, importlib.metadata"],
    "runner list-plugins": ["-m", "vlrun", "list-plugins"],
    "runner --help": ["-m", "vlrun", "--help"],
    "runner run --help": ["-m", "vlrun", "run", "--help"],
    "import torch": ["-c", "import torch"],
}


def startup_rows(progress: Callable[[int, int], None]) -> Iterator[Measurement]:
    """Milliseconds of each command, the median; a ratio says how many times as long as the bare interpreter."""
    taken: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for number in range(_REPEATS):
        for name, command in _COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            taken[name].append(time.perf_counter() - start)
        progress(number + 1, _REPEATS)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, seconds in medians.items():
        ratios = {} if name == _BARE else {_BARE: seconds / medians[_BARE]}
        yield Measurement("start-up", name, 1000 * seconds, "ms", ratios)
