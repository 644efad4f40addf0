"""``--demo``: an experiment on the embedded data, with the backbone's tiny size and the demo's own training recipe.

An experiment whose demo needs pre-trained weights names the experiment that makes them, as ``demo_pretraining``. The
demo of that one runs once, before the first demo that needs it, and its weights are kept beside the demo data.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlrun.config.base import TaskConfig
from vlrun.config.experiment import DEMO_WEIGHTS_FOLDER, Experiment, Layer, load_experiment, parse_overrides
from vlrun.config.run_reference import run_reference
from vlrun.demo.data import DemoData, demo_of, only_one, prepare_demo
from vlrun.engine.stopping import stop_signals_passed_to
from vlrun.errors import ConfigError, DataError, RunnerError, StoppedOnRequest
from vlrun.foreign.yaml import dump_yaml
from vlrun.interfaces.demo_provider import DemoFiles
from vlrun.plugins.code import code_hash
from vlrun.plugins.manager import Plugins

FROM_PICTURES: Literal["pictures"] = "pictures"
"""What ``demo`` of such an experiment is."""

_ORIGIN = "demo"

_LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR"),
    *("MASTER_PORT", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
)

Say = Callable[[str], None]


def load_demo_experiment(
    path: Path, overrides: Sequence[str], plugins: Plugins, progress: Say, *, from_pictures: bool = False
) -> Experiment:
    """The experiment at ``path`` with the demo data in place of its own; generates what is missing.

    Overrides on the command line still count. A file that says ``demo`` is the resolved configuration of a demo run
    and is taken as it is.

    Args:
        from_pictures: whether its regions are those that a detector finds in the pictures.

    Raises:
        ConfigError: the experiment itself is wrong, or a demo of the other kind; raised before anything is generated.
        PluginError: no plugin has demo data for one of the datasets.
    """
    experiment = load_experiment(path, overrides, plugins=plugins, for_demo=True)
    if experiment.demo is True and from_pictures:
        raise ConfigError(f"{path}: this demo does not start from pictures; name the experiment that it is made of")
    from_pictures = from_pictures or experiment.demo == FROM_PICTURES
    datasets = [demo_dataset(task) for task in experiment.tasks]
    if experiment.reads_pictures and from_pictures:
        raise ConfigError(f"{path}: backbone '{experiment.backbone.name}' reads pictures and no regions; use --demo")
    data = prepare_demo(
        plugins, datasets, progress, from_pictures=from_pictures, reads_pictures=experiment.reads_pictures
    )
    if experiment.demo:
        return experiment
    values = _values(experiment, data, FROM_PICTURES if from_pictures else True)
    if experiment.demo_pretraining is not None and "backbone.weights" not in parse_overrides(overrides).values:
        weights = _weights_path(experiment, data.root, plugins, progress, from_pictures)
        values["backbone.weights"] = str(weights)
    elif run_reference(experiment.backbone.weights) is not None:  # a demo of that experiment, under the same runs root
        values["backbone.weights"] = str(experiment.backbone.weights)
    return _with_demo_values(path, overrides, values, plugins)


def _with_demo_values(path: Path, overrides: Sequence[str], values: dict[str, Any], plugins: Plugins) -> Experiment:
    """The experiment with the demo's values, over which those of the command line count.

    A whole section of the command line, such as another backbone, lies under them, for they are what it runs with; but
    the options that it names count, too.
    """
    given = parse_overrides(overrides)
    sections = {
        key: section
        for key, section in given.values.items()
        if isinstance(section, dict) and any(option.startswith(f"{key}.") for option in values)
    }
    named = {f"{key}.{option}" for key, section in sections.items() for option in section}
    values = {option: value for option, value in values.items() if option not in named}
    rest = [override for override in overrides if override.partition("=")[0] not in sections]
    layers = [Layer(given.origin, sections), Layer(_ORIGIN, values)]
    return load_experiment(path, rest, plugins=plugins, layers=layers)


def demo_duration(experiment: Experiment, plugins: Plugins) -> str:
    """How long the demo takes, in words, as its provider says; empty if it does not."""
    return demo_of(plugins, [demo_dataset(task) for task in experiment.tasks])[0].duration


def prepare_demo_weights(experiment: Experiment, plugins: Plugins, progress: Say, announce: Say) -> None:
    """Makes the pre-trained weights that a demo run starts from, if it needs any and they do not exist yet.

    Of several processes, one makes them and the others wait. A pre-training that was stopped is continued.

    Args:
        progress: is told that the weights are reused or waited for.
        announce: is told, in the process that makes them, what takes so long.

    Raises:
        DataError: they are gone, and the code that made them has changed.
        StoppedOnRequest: a signal stopped the pre-training.
        RunnerError: the pre-training failed and has said why; carries its exit status.
    """
    weights, file = experiment.demo_weights, experiment.demo_pretraining
    if weights is None or file is None:
        return
    from_pictures = experiment.demo == FROM_PICTURES
    option = _option(from_pictures)
    if not weights.is_file():
        if weights != _weights_path(experiment, experiment.data_root, plugins, progress, from_pictures):
            raise DataError(
                f"{weights} is gone and cannot be made again, because the code or {file} has changed since. "
                f"Start anew with: runner run EXPERIMENT {option}"
            )
        weights.parent.mkdir(parents=True, exist_ok=True)
        with only_one(weights.with_suffix(".lock"), progress):
            if not weights.is_file():
                announce(
                    f"no pre-trained demo weights yet: running {_shown(file)} {option} first (some minutes, once); "
                    f"they are kept in {weights.parent}"
                )
                _make_weights(file, weights, plugins, option, _with_backbone_of(experiment, file, plugins))
                return
    progress(f"demo weights: {weights} (made by {_shown(file)} {option}, reused)")


def _values(experiment: Experiment, data: DemoData, kind: bool | str) -> dict[str, Any]:
    values: dict[str, Any] = {"demo": kind, "data_root": str(data.root), "image_identities": None}
    for option, value in type(experiment.backbone).demo_overrides(data.files).items():
        values[f"backbone.{option}"] = _plain(value)
    for index, task in enumerate(experiment.tasks):
        files = data.datasets[demo_dataset(task)]
        values[f"tasks.{index}.dataset.annotations"] = str(files.annotations)
        if not experiment.reads_pictures:
            values[f"tasks.{index}.dataset.features"] = str(files.features)
        values[f"tasks.{index}.dataset.pictures"] = str(files.pictures)
        for option, value in task.demo_overrides().items():
            values[f"tasks.{index}.{option}"] = _plain(value)
    values.update(data.overrides)
    if groups := [group for task in experiment.tasks for group in task.demo_groups()]:
        own = [group.model_dump(exclude_none=True) for group in experiment.train.groups]
        values["train.groups"] = [*own, *groups]
    if not experiment.train.epochs:
        values["train.epochs"] = 0  # what only evaluates does not train in a demo either
    return values


def _weights_path(experiment: Experiment, root: Path, plugins: Plugins, progress: Say, from_pictures: bool) -> Path:
    """The path of the weights from ``experiment.demo_pretraining``; it changes with everything they depend on.

    The pre-training trains the backbone of the experiment, whichever its file names.

    Raises:
        ConfigError: that experiment is wrong.
    """
    file = experiment.demo_pretraining
    assert file is not None
    overrides = _with_backbone_of(experiment, file, plugins)
    pretraining = load_demo_experiment(file, overrides, plugins, progress, from_pictures=from_pictures)
    settings = pretraining.model_dump(mode="json", exclude={"runs_root"})
    facts = f"{dump_yaml(settings).replace(str(root), '')}\x1f{code_hash(_code_of(pretraining, plugins))}"
    digest = hashlib.blake2b(facts.encode(), digest_size=5).hexdigest()
    return root / DEMO_WEIGHTS_FOLDER / f"{file.stem}-{digest}.safetensors"


def _with_backbone_of(experiment: Experiment, file: Path, plugins: Plugins) -> list[str]:
    """The overrides with which the pre-training ``file`` trains the backbone of ``experiment``: none if it does so.

    Raises:
        ConfigError: ``file`` is wrong, or needs a pre-training itself.
    """
    pretraining = load_experiment(file, plugins=plugins)
    if pretraining.demo_pretraining is not None:
        raise ConfigError(f"{file}: demo_pretraining: a pre-training cannot start from another one")
    if pretraining.backbone.name == experiment.backbone.name:
        return []
    of_the_demo = type(experiment.backbone).demo_overrides(DemoFiles(Path(), 1, 1))
    options = experiment.backbone.model_dump(mode="json", exclude={"weights", *of_the_demo}, exclude_unset=True)
    return [f"backbone={json.dumps({**options, 'name': experiment.backbone.name})}"]


def _code_of(experiment: Experiment, plugins: Plugins) -> list[str]:
    """Paths to the code of all components of an experiment, besides the core."""
    chosen = [("backbone", experiment.backbone.name)]
    for task in experiment.tasks:
        chosen += [("task", task.name), ("dataset", task.dataset.name)]
        chosen += [("metric", metric.name) for metric in task.metrics or ()]
    chosen += [("optimizer", experiment.train.optimizer.name), ("schedule", experiment.train.schedule.name)]
    return [plugins.find(kind, name).factory for kind, name in chosen]


def _make_weights(file: Path, weights: Path, plugins: Plugins, option: str, overrides: Sequence[str]) -> None:
    """Runs the pre-training ``file`` and exports its best weights; its run folder stays, under their name."""
    from vlrun.engine.run_folder import latest_run_folder
    from vlrun.runs.export import export_weights

    runs_root = weights.parent / "runs" / weights.stem
    _run_demo(file, runs_root, option, overrides)
    name = load_experiment(file, plugins=plugins).name
    folder = latest_run_folder(runs_root, name)
    if folder is None:
        raise DataError(f"{runs_root}: {file} has left no run of '{name}'")
    export_weights(folder, load_experiment(folder.config, plugins=plugins), weights, plugins)


def _run_demo(file: Path, runs_root: Path, option: str, overrides: Sequence[str]) -> None:
    """Runs ``runner run FILE --demo``, or another option, as a single process, even in a rank of a launched job."""
    words = ["run", str(file), *overrides, option, "--resume", "--output", str(runs_root)]
    command = [sys.executable, "-m", "vlrun", *words]
    with (
        subprocess.Popen(command, env=_without_launcher(os.environ)) as process,
        stop_signals_passed_to(process.send_signal),
    ):
        status = process.wait()
    if status == StoppedOnRequest.exit_status:
        raise StoppedOnRequest("stopped during the pre-training of the demo; the same command continues it")
    if status:
        error = RunnerError(
            f"the pre-training that this demo starts from has failed, see above: runner run {_shown(file)} {option}"
        )
        error.exit_status = status if status > 0 else RunnerError.exit_status
        raise error


def _without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in _LAUNCHER_VARIABLES and not name.startswith("TORCHELASTIC_")
    }


def _shown(file: Path) -> str:
    """The path as a user would type it here."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def demo_detector(experiment: Experiment, plugins: Plugins) -> str | None:
    """Name of the detector that the regions of a demo run are from; None if they are not from pictures."""
    if experiment.demo != FROM_PICTURES:
        return None
    return demo_of(plugins, [demo_dataset(task) for task in experiment.tasks])[0].detector


def _option(from_pictures: bool) -> str:
    return "--demo-pictures" if from_pictures else "--demo"


def demo_dataset(task: TaskConfig) -> str:
    """The dataset whose demo files a task reads."""
    return task.dataset.demo_dataset or task.dataset.name


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
