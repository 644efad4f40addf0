"""Whether what an experiment puts together is about the same kind of target."""

from __future__ import annotations

from collections.abc import Iterator

from vlrun.config.base import TaskConfig
from vlrun.config.problems import Problem
from vlrun.plugins.manager import Plugins


def target_problems(plugins: Plugins, index: int, task: TaskConfig) -> Iterator[Problem]:
    """The dataset and the metrics of a task that are about something else than what it learns.

    Args:
        index: number of the task in the experiment.
    """
    target = plugins.find("task", task.name).target
    dataset = plugins.find("dataset", task.dataset.name)
    if dataset.target != target:
        fitting = [entry.name for entry in plugins.entries("dataset") if entry.target == target]
        yield Problem(
            ("tasks", index, "dataset", "name"),
            f"task '{task.name}' learns '{target}', dataset '{dataset.name}' has '{dataset.target}'. "
            f"Datasets that fit: {', '.join(fitting) or 'none installed'}",
        )
    fitting = [entry.name for entry in plugins.entries("metric") if entry.target in (None, target)]
    for number, metric in enumerate(task.metrics or ()):
        if metric.name not in fitting:
            yield Problem(
                ("tasks", index, "metrics", number, "name"),
                f"task '{task.name}' learns '{target}', metric '{metric.name}' is about "
                f"'{plugins.find('metric', metric.name).target}'. Metrics that fit: "
                f"{', '.join(fitting) or 'none installed'}; without this option the task has its own",
            )
