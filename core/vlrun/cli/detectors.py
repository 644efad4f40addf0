"""What verbs share that look at photographs: naming a detector and its options. Public, for verbs of plugins."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.errors import ConfigError, DataError, UsageError
from vlrun.plugins.manager import create_plugins

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment
    from vlrun.interfaces.detector import Detector
    from vlrun.interfaces.examples import RegionFeatures
    from vlrun.plugins.manager import Plugins

__all__ = ["PhotographReader", "add_detector_arguments", "detector_maker", "options_given", "photograph_reader"]


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --detector, --detector-weights and --detector-option."""
    parser.add_argument("--detector", metavar="DETECTOR", help="for photographs: one of `runner list detectors`")
    parser.add_argument("--detector-weights", metavar="FILE", help="imported weights of the detector (.safetensors)")
    parser.add_argument(
        "--detector-option",
        action="append",
        default=[],
        metavar="option=value",
        help="of the detector, such as boxes=36; may be repeated; `runner list detectors --options`",
    )


def options_given(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a detector that ``option=value`` arguments set; values are YAML.

    Raises:
        UsageError: an argument has no ``=``.
    """
    from vlrun.foreign.yaml import parse_scalar

    given = {}
    for option in arguments:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"'{option}' is no option of the detector; write option=value")
        given[name] = parse_scalar(value)
    return given


def detector_maker(name: str, given: Mapping[str, Any]) -> Callable[[], Detector]:
    """What makes the detector ``name``, its options checked.

    Raises:
        ConfigError: an option is wrong or missing.
        PluginError: there is no such detector.
    """
    from pydantic import ValidationError

    from vlrun.config.components import config_model
    from vlrun.config.problems import dotted, validation_problems

    entry = create_plugins().find("detector", name)
    content = {"name": entry.name, **given}
    model = config_model("detector", entry)
    try:
        options = model.model_validate(content)
    except ValidationError as error:
        problems = validation_problems(error, model, content)
        raise ConfigError(
            [f"--detector {entry.name}: {dotted(each.path)}: {each.message}" for each in problems]
        ) from None
    return partial(entry.build, options)


class PhotographReader:
    """Finds the regions of photographs, one at a time; the detector is built for the first of them."""

    def __init__(self, make: Callable[[], Detector]) -> None:
        self._make = make

    @cached_property
    def detector(self) -> Detector:
        """The detector itself."""
        return self._make()

    def __call__(self, file: Path) -> RegionFeatures:
        """The regions of a photograph, called by the name of its file.

        Raises:
            DataError: it cannot be read, or has no regions; names the file.
        """
        if not file.is_file():
            raise DataError(f"{file}: there is no such file")
        try:
            return self.detector.detect(file.stem, self.detector.read(file))
        except DataError as error:
            raise DataError([f"{file}: {problem}" for problem in error.problems]) from error


def photograph_reader(arguments: argparse.Namespace) -> PhotographReader | None:
    """The detector that the arguments of ``add_detector_arguments`` name.

    Where they name none, it is that of the demo for a demo run that started from pictures; else None.
    """
    if arguments.detector is None:
        if arguments.detector_weights or arguments.detector_option:
            raise UsageError(f"--detector-weights and --detector-option need {how_to_name_one()}")
        name = detector_of_run(arguments.run_folder)
        return None if name is None else PhotographReader(detector_maker(name, {}))
    given = options_given(arguments.detector_option)
    if arguments.detector_weights is not None:
        given["weights"] = arguments.detector_weights
    return PhotographReader(detector_maker(arguments.detector, given))


def detector_of_run(run_folder: str | Path) -> str | None:
    """Name of the detector that the regions of a run are from, where the run itself knows it, as demos do."""
    from vlrun.demo.run import demo_detector

    plugins = create_plugins()
    experiment = _experiment_of(run_folder, plugins)
    return None if experiment is None else demo_detector(experiment, plugins)


def run_reads_pictures(run_folder: str | Path) -> bool:
    """Whether the model of a run sees photographs themselves, so that it takes no detector."""
    experiment = _experiment_of(run_folder, create_plugins())
    return experiment is not None and experiment.reads_pictures


def _experiment_of(run_folder: str | Path, plugins: Plugins) -> Experiment | None:
    """That of a run; None if it cannot be read, which opening the run says."""
    from vlrun.config.experiment import load_experiment
    from vlrun.engine.run_folder import open_run_folder

    try:
        return load_experiment(open_run_folder(Path(run_folder)).config, plugins=plugins)
    except ConfigError:
        return None


def how_to_name_one() -> str:
    """What to do for photographs while no detector is named, as the end of a sentence."""
    names = create_plugins().names("detector")
    if not names:
        return "a detector, and no installed plugin offers one"
    return f"--detector ({' or '.join(names)}) and --detector-weights FILE"
