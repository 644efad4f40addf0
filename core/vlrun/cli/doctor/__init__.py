"""``runner doctor``: what may not work on this machine, with its plugins, or with one experiment, and what helps."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vlrun.cli.doctor.findings import Finding, shown
from vlrun.errors import MachineError, RunnerError
from vlrun.foreign.printing import say, say_json
from vlrun.plugins.manager import CORE, PluginRecord, Plugins, create_plugins

if TYPE_CHECKING:
    from vlrun.cli.doctor.machine import Machine
    from vlrun.config.experiment import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes an experiment with overrides, --nproc and --json."""
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        nargs="?",
        help="a YAML file under experiments/, or a run folder: also what this experiment needs of the machine",
    )
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the file (YAML)")
    parser.add_argument("--nproc", type=int, metavar="N", help="processes that the run will have (default: 1)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints each finding with its remedy; raises MachineError if there is an error among them."""
    from vlrun.cli.arguments import check_processes
    from vlrun.cli.doctor.machine import read_machine

    check_processes(arguments)
    machine, plugins = read_machine(), create_plugins()
    findings = list(_findings(arguments, machine, plugins))
    if arguments.json:
        facts = _facts(machine, plugins)
        say_json({**facts, "findings": [asdict(finding) for finding in findings]})
    else:
        say(*shown(findings))
    if wrong := list(dict.fromkeys(finding.about for finding in findings if finding.level == "error")):
        raise MachineError(f"not ok: {', '.join(wrong)}")
    return 0


def _findings(arguments: argparse.Namespace, machine: Machine, plugins: Plugins) -> Iterator[Finding]:
    from vlrun.cli.doctor.machine_checks import (
        check_cpus,
        check_open_files,
        check_shared_memory,
        check_temporary,
        check_torch,
    )
    from vlrun.cli.doctor.version_checks import check_packages, check_python

    yield from check_python(machine)
    yield from check_packages(machine, _plugin_versions(plugins))
    yield from check_plugins(plugins, with_code=machine.torch is not None)
    loaded = None if arguments.experiment is None else _load(arguments, plugins)
    precision = "fp32" if loaded is None or isinstance(loaded, Finding) else loaded.train.precision
    yield from check_torch(machine, arguments.nproc, precision)
    yield from check_shared_memory(machine)
    yield from check_temporary(machine)
    if loaded is None:
        yield from check_cpus(machine, arguments.nproc or 1)
        yield from check_open_files(machine)
        yield from _check_roots(machine)
    elif isinstance(loaded, Finding):
        yield loaded
    elif machine.torch is not None:
        from vlrun.cli.doctor.experiment_checks import check_experiment, shape_of

        named = shlex.join([arguments.experiment, *arguments.overrides])
        yield from check_experiment(loaded, named, machine, plugins, shape_of(loaded, machine, arguments.nproc))


def _load(arguments: argparse.Namespace, plugins: Plugins) -> Experiment | Finding:
    """The experiment, or the finding that it cannot be read."""
    from vlrun.cli.arguments import experiment_path
    from vlrun.config.experiment import load_experiment

    path, _ = experiment_path(arguments.experiment)
    try:
        return load_experiment(path, arguments.overrides, plugins=plugins)
    except RunnerError as error:
        return Finding(
            "error", "experiment", str(error), arguments.experiment, "mend the file; runner validate checks it"
        )


def check_plugins(plugins: Plugins, with_code: bool = True) -> list[Finding]:
    """Whether each plugin loads, whether all that it names can be imported, and whether names clash.

    Args:
        with_code: also import all that plugins name, which needs torch.
    """
    if with_code:
        from vlrun.config.components import check_references

        check_references(plugins)
    findings = []
    for record in plugins.records:
        for reason in dict.fromkeys(record.reasons):
            findings.append(Finding("error", "plugins", f"{record.status}: {reason}", record.label, _remedy(record)))
    findings += _same_names(plugins)
    if not findings:
        findings = [Finding("ok", "plugins", f"{len(plugins.records)}, and all that they offer can be imported")]
    return findings


def _remedy(record: PluginRecord) -> str:
    remedies = {
        "clash": f"pip uninstall one of them, such as {record.distribution}",
        "incompatible": f"pip install -U {record.distribution} {CORE}",
    }
    reinstall = f"pip install --force-reinstall {record.distribution}, or pip uninstall {record.distribution}"
    return remedies.get(record.status, reinstall)


def _same_names(plugins: Plugins) -> Iterator[Finding]:
    """Plugins of two distributions that go by one name in lists and messages."""
    owners: dict[str, list[str]] = {}
    for record in plugins.records:
        labels = owners.setdefault(record.name, [])
        if record.label not in labels:
            labels.append(record.label)
    for name, labels in owners.items():
        if len(labels) > 1:
            yield Finding(
                "warning",
                "plugins",
                f"two plugins are called '{name}'",
                " and ".join(labels),
                "uninstall the one that is not wanted, or let its author choose another name for the entry point",
            )


def _plugin_versions(plugins: Plugins) -> dict[str, str]:
    return {record.distribution: record.version for record in plugins.records if record.version}


def _check_roots(machine: Machine) -> Iterator[Finding]:
    """Where experiments look for data and write runs unless they say otherwise."""
    from vlrun.cli.doctor.machine import space_of
    from vlrun.cli.doctor.machine_checks import check_space, check_store_place
    from vlrun.config.roots import usual_data_root, usual_runs_root
    from vlrun.features.handles import DATA_FILE

    data_root = usual_data_root()
    for store in sorted(data_root.glob(f"features/*/{DATA_FILE}")):
        yield from check_store_place(machine, store.parent)
    yield check_space(space_of(data_root), "data_root")
    yield check_space(space_of(usual_runs_root()), "runs_root")


def _facts(machine: Machine, plugins: Plugins) -> Mapping[str, Any]:
    """Versions and hardware, for a report of a problem."""
    from vlrun.cli.doctor.version_checks import needed_packages

    gpus = machine.torch.gpus if machine.torch else ()
    return {
        "python": machine.python,
        "platform": machine.system,
        "cores": machine.cores,
        "usable_cpus": machine.cpus,
        "gpus": [gpu.name for gpu in gpus],
        "driver": machine.nvidia_driver,
        "packages": {name: machine.version(name) or "missing" for name in needed_packages(machine)},
        "plugins": {record.distribution: f"{record.version} ({record.status})" for record in plugins.records},
    }
