"""What one experiment will meet on a machine: its files, and what it asks for against what there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlrun.cli.data_prepare import bytes_of_stores, needs_and_steps
from vlrun.cli.doctor.findings import Finding
from vlrun.cli.doctor.machine import Machine, space_of
from vlrun.cli.doctor.machine_checks import check_cpus, check_open_files, check_space, check_store_place, mib
from vlrun.errors import RunnerError

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment
    from vlrun.plugins.manager import Plugins
    from vlrun.runs.demands import Demands


@dataclass(frozen=True)
class Shape:
    """How many processes a run has on this machine, how many loader workers each of them has, and on what it computes.

    Attributes:
        device: as torch calls its kind.
    """

    processes: int
    workers: int
    device: str = "cpu"


def shape_of(experiment: Experiment, machine: Machine, processes: int | None) -> Shape:
    """What ``runner run --nproc`` would start here."""
    import torch

    from vlrun.data.workers import default_workers

    device = "cuda" if machine.torch is not None and machine.torch.gpus else "cpu"
    workers = experiment.train.workers
    if workers is None:
        workers = default_workers(torch.device(device))
    return Shape(processes or 1, workers, device)


def check_experiment(
    experiment: Experiment, named: str, machine: Machine, plugins: Plugins, shape: Shape
) -> Iterator[Finding]:
    """Everything about one experiment.

    Args:
        named: how the user called it, with overrides.
    """
    from vlrun.data.first_batch import HELD_BY_A_WORKER

    yield from check_cpus(machine, shape.processes, shape.workers)
    yield from check_open_files(machine, shape.workers, HELD_BY_A_WORKER)
    if experiment.features.stage is None:
        for store in experiment.feature_stores:
            yield from check_store_place(machine, store)
    if experiment.demo and experiment.missing_files():
        yield Finding("ok", "data", "a demo makes all that it needs")
        return
    missing = 0
    findings, to_build = data_status(experiment, named, plugins)
    for finding in findings:
        missing += finding.level == "error"
        yield finding
    yield check_space(space_of(experiment.data_root), "data_root", to_build, "stores of the published features")
    demands = None
    if not missing:
        findings, demands = first_steps(experiment, plugins, shape)
        yield from findings
    if demands is None:
        yield check_space(space_of(experiment.runs_root), "runs_root")
        return
    yield from check_batches(machine, shape, demands)
    yield check_space(space_of(experiment.runs_root), "runs_root", demands.checkpoints, "checkpoints")


def data_status(experiment: Experiment, named: str, plugins: Plugins) -> tuple[list[Finding], int]:
    """What ``runner data status`` says, and the bytes that missing stores will take."""
    downloads = plugins.downloads()
    needs, steps = needs_and_steps(experiment, downloads)
    findings = [
        Finding(
            "error",
            "data",
            f"missing {', '.join(file.path.name for file in step.need.missing) or step.need.target.name}",
            str(step.need.target),
            step.commands[0] if step.candidates else f"runner data status {named}",
        )
        for step in steps
    ]
    if not steps:
        findings = [Finding("ok", "data", f"all {len(needs)} files and folders are there", str(experiment.data_root))]
    return findings, bytes_of_stores(steps, downloads)


def first_steps(experiment: Experiment, plugins: Plugins, shape: Shape) -> tuple[list[Finding], Demands | None]:
    """What a run would say before its first step, and what it would ask for; None if it would end there."""
    import torch

    from vlrun.config.preflight import check_files, check_recipe
    from vlrun.runs.demands import measure_demands
    from vlrun.runs.stages import initial_weights, with_weights

    try:
        experiment = with_weights(experiment, initial_weights(experiment, plugins))
        check_recipe(experiment)
        check_files(experiment)
        demands = measure_demands(experiment, plugins, shape.processes, shape.workers, torch.device(shape.device))
    except RunnerError as error:
        return [Finding("error", "experiment", str(error), experiment.name, "a run would end with this")], None
    checked = "annotations, features and weights fit; a first batch was made"
    return [Finding("ok", "experiment", checked, experiment.name)], demands


def check_batches(machine: Machine, shape: Shape, demands: Demands) -> Iterator[Finding]:
    """The batches that all loader workers hold at once, against shared memory."""
    from vlrun.data.first_batch import HELD_BY_A_WORKER

    shared, loaders = machine.shared_memory, shape.processes * shape.workers
    if shared is None or not demands.batches:
        return
    task, size = max(demands.batches.items(), key=lambda item: item[1])
    if not loaders:
        yield Finding("ok", "shared memory", "not needed: without loader workers batches stay in one process")
        return
    needed = loaders * HELD_BY_A_WORKER * size
    asked = (
        f"{loaders} loader worker{'s' * (loaders > 1)} can hold {HELD_BY_A_WORKER} batches of "
        f"{size / 2**20:,.1f} MiB each ('{task}'), "
        f"together {mib(needed)} MiB; {mib(shared.free)} MiB are free"
    )
    if needed > shared.free:
        fitting = int(shared.free // (shape.processes * HELD_BY_A_WORKER * size))
        yield Finding(
            "error",
            "shared memory",
            asked,
            str(shared.path),
            f"train.workers={fitting}, a smaller train.batch_size, or more shared memory (docker: --shm-size "
            f"{mib_with_room(needed)}m)",
        )
    else:
        yield Finding("ok", "shared memory", asked, str(shared.path))


def mib_with_room(needed: int) -> int:
    """Mebibytes to ask a container for: a quarter more, for what else lies there."""
    return int(needed * 1.25 / 2**20) + 1
