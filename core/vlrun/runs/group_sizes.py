"""How many parameters the groups of an experiment have, before there are any data."""

from __future__ import annotations

import torch

from vlrun.config.experiment import Experiment
from vlrun.engine.assembly import build_network
from vlrun.engine.model import TaskModel, WithoutRandomNumbers
from vlrun.engine.optimisation import plan_parameters
from vlrun.errors import RunnerError
from vlrun.plugins.manager import Plugins


def group_lines(experiment: Experiment, plugins: Plugins) -> list[str]:
    """As the header of a run says it: a line for each of ``train.groups``, and how many parameters train.

    The network is built without weights, so files that it is built from, such as a vocabulary, must be there; if it
    cannot be built, the only line says why.

    Raises:
        ConfigError: a group matches nothing, or nothing is left to train.
    """
    backbone = experiment.backbone.model_copy(update={"weights": None})
    try:
        with torch.random.fork_rng(devices=[]), WithoutRandomNumbers():
            network, _, heads, _ = build_network(experiment.model_copy(update={"backbone": backbone}), plugins)
    except RunnerError as error:
        return [f"how many parameters they have is not known yet: {str(error).splitlines()[0]}"]
    labels = [task.display_name for task in experiment.tasks]
    plan = plan_parameters(TaskModel(network, dict(zip(labels, heads, strict=True))), experiment.train.groups)
    plan.freeze()
    return [line for _, line in plan.facts()]
