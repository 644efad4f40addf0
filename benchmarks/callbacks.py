"""What callbacks cost a step that does nothing in them: none, one, and ten of them, by turns.

python benchmarks/callbacks.py [--rounds 200] [--json]

A step is a real one, of a small network: two layers of width 32, 4 questions of the demo. Going over an empty list is
also timed by itself, for it is too little to be seen beside a step. The ratios are what to look at: medians of steps
that alternate, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import timeit
from itertools import islice
from pathlib import Path

import torch

from vlrun import Callback, load_experiment
from vlrun.demo.bench import full_size_layer
from vlrun.engine.assembly import assemble
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.start_checks import check_first_batch
from vlrun.engine.step_feed import loaded_steps
from vlrun.engine.steps import first_step, train_step
from vlrun.engine.stopping import StopRequest
from vlrun.engine.trainer import build_trainer
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import create_plugins
from vlrun.runs.bench.timed import planned_steps

FILE = Path(__file__).parents[1] / "experiments" / "rosita_vqa.yaml"
SMALL = ["backbone.size=tiny", "backbone.hidden_size=32", "backbone.num_layers=2", "backbone.num_heads=2"]
SMALL += ["backbone.feed_forward_size=64", "backbone.num_regions=4", "backbone.weights=null"]
SMALL += ["train.batch_size=4", "train.workers=0", "train.precision=fp32", "train.epochs=1000"]
COUNTS = (0, 1, 10)
WARM_UP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measured(arguments.rounds)
    empty = timeit.timeit("for each in callbacks: each()", globals={"callbacks": []}, number=1_000_000) / 1_000_000
    none = seconds[0]
    rows = [{"callbacks": count, "ms": 1000 * each, "ratio": each / none} for count, each in seconds.items()]
    share = 2 * empty / none  # after the backward pass and after the update
    if arguments.json:
        print(json.dumps({"rows": rows, "share_of_empty_list": share}, indent=2))
        return
    print(f"{'callbacks':>9} {'ms':>8} {'ratio':>7}")
    for row in rows:
        print(f"{row['callbacks']:>9} {row['ms']:>8.3f} {row['ratio']:>7.4f}")
    print(f"an empty list is gone over in {1e9 * empty:.0f} ns, twice a step: {100 * share:.5f} % of it")


def measured(rounds: int) -> dict[int, float]:
    """Number of callbacks -> median seconds of a step."""
    plugins = create_plugins()
    experiment = load_experiment(FILE, SMALL, plugins=plugins)
    taken: dict[int, list[float]] = {count: [] for count in COUNTS}
    with (
        full_size_layer(experiment, plugins, lambda text: print(text, file=sys.stderr)) as layer,
        tempfile.TemporaryDirectory() as folder,
    ):
        loaded = load_experiment(FILE, SMALL, plugins=plugins, layers=[layer])
        run = assemble(loaded, Ranks(0, 1, torch.device("cpu")), RunFolder(Path(folder)), Reporters([]), plugins)
        trainer = build_trainer(run, StopRequest(), plugins)
        check_first_batch(trainer)
        run.model.train()
        total = (WARM_UP + rounds) * len(COUNTS)
        feed = loaded_steps(trainer, list(islice(planned_steps(trainer), total + 1)))
        step = first_step(trainer, feed)
        for number in range(WARM_UP + rounds):
            for count in COUNTS:
                trainer.callbacks = [Callback() for _ in range(count)]
                assert step is not None
                started = time.perf_counter()
                step = train_step(trainer, step, feed).following
                if number >= WARM_UP:
                    taken[count].append(time.perf_counter() - started)
    return {count: statistics.median(each) for count, each in taken.items()}


if __name__ == "__main__":
    main()
