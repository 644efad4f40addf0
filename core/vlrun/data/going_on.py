"""How an experiment goes on with the splits that are there, where others cannot be had."""

from __future__ import annotations

from vlrun.config.experiment import Experiment


def overrides_for_what_is_there(experiment: Experiment) -> list[str]:
    """The overrides with which an experiment needs no split that is missing; none where that cannot be.

    Where the split by which the best epoch is chosen is missing, none is chosen: the last one is scored. A test split
    in its place would choose, too, and measure itself.
    """
    overrides, chooses = [], True
    for index, task in enumerate(experiment.tasks):
        dataset = task.dataset
        there = sorted(path.stem for path in dataset.annotations.glob("*.jsonl"))
        if not set(dataset.train) <= set(there):
            return []
        kept = [split for split in dataset.evaluate if split in there]
        if kept == dataset.evaluate:
            continue
        kept = kept or [split for split in there if split not in dataset.train][:1]
        if not kept:
            return []
        overrides.append(f"tasks.{index}.dataset.evaluate=[{','.join(kept)}]")
        chooses &= kept[0] == dataset.evaluate[0]
    trains = experiment.train.epochs and experiment.train.final_checkpoint == "best"
    return overrides if chooses or not trains else [*overrides, "train.final_checkpoint=last"]
