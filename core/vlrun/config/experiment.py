"""The experiment file: one backbone, a list of tasks with their datasets, and how to train.

Loading checks everything that can be checked without torch and without reading data, and reports all of it at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, SerializeAsAny, ValidationError

from vlrun.config.base import (
    BackboneConfig,
    Config,
    DataPath,
    DatasetConfig,
    FileName,
    ReporterConfig,
    TaskConfig,
)
from vlrun.config.callbacks import CallbackConfig
from vlrun.config.components import config_base, config_model
from vlrun.config.features import FeaturesConfig
from vlrun.config.inputs import find_demo_pretraining, image_problems, missing_files
from vlrun.config.layers import Layer, lay_over, parse_overrides
from vlrun.config.origins import annotate
from vlrun.config.problems import Problem, Sources, dotted, short, validation_problems, value_problems
from vlrun.config.published import Published
from vlrun.config.roots import environment_roots, recorded_root
from vlrun.config.shipped import find_experiment
from vlrun.config.targets import target_problems
from vlrun.config.train import TrainConfig
from vlrun.errors import ConfigError, PluginError, RequiredFile
from vlrun.foreign.yaml import KeyPath, dump_yaml, parse_yaml
from vlrun.reporting.options import portable_options

if TYPE_CHECKING:
    from vlrun.plugins.manager import Plugins

DEMO_WEIGHTS_FOLDER = "pretrained"
"""Where the weights of demos lie under the root of the demo data."""
RESERVED_LABELS = {"weights", "image_identities", "input_files", "accepted_changes", "parameter_groups"}
"""What stands in ``data.json`` of a run beside its tasks."""
IDENTITIES_FILE = "image_identities.jsonl"
"""Name of the table of image identities that runs use if it is under the data root."""


class Experiment(Config):
    """A checked experiment: every path is absolute and every default is filled in."""

    name: FileName
    data_root: Path
    runs_root: Path
    seed: int = 0
    demo: bool | Literal["pictures"] = Field(
        False,
        description="whether this is a run on embedded demo data; pictures: on what a detector finds in its pictures",
    )
    demo_pretraining: Path | None = Field(
        None,
        description="experiment (a path relative to this file) whose demo makes the weights that this demo starts from",
    )
    image_identities: DataPath | None = Field(
        None,
        description="table that tells which images of COCO, Visual Genome and Flickr are the same, from "
        f"`runner data build image-identities`; null: {IDENTITIES_FILE} under data_root, if it is there",
    )
    backbone: SerializeAsAny[BackboneConfig]
    tasks: list[SerializeAsAny[TaskConfig]] = Field(min_length=1)
    train: TrainConfig
    features: FeaturesConfig = Field(default_factory=FeaturesConfig)
    callbacks: list[SerializeAsAny[CallbackConfig]] = Field(
        default_factory=list, description="code of plugins that is called around each step, in this order"
    )
    published: Published | None = None
    reporters: list[SerializeAsAny[ReporterConfig]] = Field(
        default_factory=list, description="reporters beside the built-in ones, or options of one of these"
    )
    built_in_reporters: bool = Field(True, description="whether those that reporters does not list work, too")

    _sources: Sources | None = PrivateAttr(None)

    def as_yaml(self) -> str:
        """The resolved experiment as YAML; running it does the same as running the original file."""
        return dump_yaml(self.model_dump(mode="json"))

    def as_yaml_with_origins(self) -> str:
        """The resolved experiment as YAML, with a comment on each line that says where its value comes from."""
        return annotate(self.model_dump(mode="json"), self._sources)

    @property
    def identities_file(self) -> Path:
        """The table of image identities; it may be missing unless ``image_identities`` names it."""
        return self.image_identities or self.data_root / IDENTITIES_FILE

    @property
    def demo_weights(self) -> Path | None:
        """The weights that ``demo_pretraining`` makes before this demo run starts; None if it needs no such weights."""
        weights = self.backbone.weights
        if not self.demo or self.demo_pretraining is None or weights is None:
            return None
        return weights if weights.parent == self.data_root / DEMO_WEIGHTS_FOLDER else None

    @property
    def feature_stores(self) -> list[Path]:
        """The stores that regions are read from, each once; none where the backbone sees pictures."""
        if self.reads_pictures:
            return []
        return list(dict.fromkeys(task.dataset.feature_store for task in self.tasks))

    @property
    def reads_pictures(self) -> bool:
        """Whether the backbone sees pictures and no region features."""
        return self.backbone.pictures() is not None

    def missing_files(self) -> list[RequiredFile]:
        """Files that the run needs and that do not exist, except weights of a demo, which are made when needed."""
        missing = missing_files([self.backbone, *(part for task in self.tasks for part in (task.dataset, task))])
        table = self.image_identities
        if table is not None and not table.exists():
            remedy = f"runner data build image-identities --from official FOLDER {table.parent}"
            missing.append(RequiredFile(table, "table of image identities", remedy))
        return [file for file in missing if file.path != self.demo_weights]


def load_experiment(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    plugins: Plugins | None = None,
    layers: Sequence[Layer] = (),
    for_demo: bool = False,
) -> Experiment:
    """Reads and checks an experiment file, or one that ships, by its name.

    Values come from the file, then the environment (``VLRUN_DATA``, ``VLRUN_RUNS``, ``VLRUN_STAGE``), then ``layers``,
    then ``overrides`` (``key.path=value``); a later source replaces the values of an earlier one.

    Args:
        for_demo: whether demo data are to be laid over it, which bring their own pictures.

    Raises:
        ConfigError: something is wrong; each problem is a line, ``file:line: key: what, and what was probably meant``.
        PluginError: the only problems are plugins that are broken or clash.
        UsageError: an override is not ``key.path=value``.
    """
    from vlrun.plugins.manager import create_plugins

    path = find_experiment(Path(path))
    located = parse_yaml(_read(path))
    sources = Sources(str(path), located.lines)
    raw = located.data
    if not isinstance(raw, dict):
        located.problems.append((1, "an experiment file is a mapping with backbone, tasks and train"))
        raise ConfigError([f"{path}:{line}: {message}" for line, message in located.problems])

    problems: list[Problem] = []
    as_written = deepcopy(raw)
    is_of_run = path.name == "config.yaml" and (path.parent / "status.json").is_file()
    environment, recorded = environment_roots(raw, is_of_run=is_of_run), recorded_root(raw) if is_of_run else None
    for layer in (Layer("environment", environment), *layers, parse_overrides(overrides)):
        problems += lay_over(raw, layer, sources)
    raw.setdefault("name", path.stem)
    problems += find_demo_pretraining(raw, path.parent)
    check = _Check(raw, plugins or create_plugins(), recorded, for_demo)
    experiment = check.run()
    problems += check.problems
    lines = [f"{path}:{line}: {message}" for line, message in located.problems]
    if problems or lines:
        lines += [problem.line(sources) for problem in problems]
        all_plugins = bool(problems) and all(problem.is_plugin for problem in problems)
        if all_plugins:
            raise PluginError(lines)
        error = ConfigError(lines)
        error.missing = missing_files(check.parts)
        raise error
    assert experiment is not None
    if experiment.published is not None and experiment.published.recipe and sources.layers and not experiment.demo:
        own = _Check({"name": path.stem, **as_written}, check.plugins).run()
        if own is not None:  # else the file is complete only together with the changes
            before, now = (portable_options(one.model_dump(mode="json")) for one in (own, experiment))
            speed = {f"tasks.{at}.{name}" for at, task in enumerate(experiment.tasks) for name in task.speed_options}
            published = experiment.published.held_against(before, now, speed)
            experiment = experiment.model_copy(update={"published": published})
    experiment._sources = sources
    return experiment


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        folders = (Path("experiments"), path.parent)  # of two files of one name, that beside it
        others = {file.name: str(file) for folder in folders for file in sorted(folder.glob("[!.]*.yaml"))}
        alike = [others[name] for name in difflib.get_close_matches(path.name, others, n=3, cutoff=0.7)]
        near = f" Did you mean {' or '.join(alike)}?" if alike else ""
        near += " `runner list experiments` lists those that there are" if others else ""
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the experiment file: {reason}.{near}") from error


class _Check:
    """Validates the sections of a raw experiment, each with the model of the component that it names.

    Attributes:
        problems: everything that is wrong.
        parts: the backbone and the datasets that are valid, even if other sections are not.
    """

    def __init__(
        self, raw: dict[str, Any], plugins: Plugins, recorded: Path | None = None, for_demo: bool = False
    ) -> None:
        self.raw = dict(raw)
        self.plugins, self.for_demo = plugins, for_demo
        self.problems: list[Problem] = []
        self.parts: list[BackboneConfig | DatasetConfig] = []
        root = Path(str(raw.get("data_root", "data"))).expanduser().absolute()
        self.context = {"data_root": root, "recorded_root": recorded}

    def run(self) -> Experiment | None:
        """Checks everything; the experiment, or None if there are problems."""
        raw = self.raw
        frame = {**raw, "data_root": self.context["data_root"]}
        frame["runs_root"] = Path(str(raw.get("runs_root", "runs"))).expanduser().absolute()
        if "backbone" in raw:
            frame["backbone"] = self.component("backbone", raw["backbone"], ("backbone",)) or _unchecked(BackboneConfig)
        if isinstance(raw.get("tasks"), list):
            frame["tasks"] = [self.task(task, ("tasks", index)) for index, task in enumerate(raw["tasks"])]
        if isinstance(raw.get("train"), dict):
            frame["train"] = self.train(raw["train"])
        for kind, model in (("callback", CallbackConfig), ("reporter", ReporterConfig)):
            section = f"{kind}s"
            if isinstance(raw.get(section), list):
                frame[section] = [
                    self.component(kind, item, (section, index)) or _unchecked(model)
                    for index, item in enumerate(raw[section])
                ]
        self.problems += value_problems(raw)
        experiment = self.validated(Experiment, frame, (), raw)
        if not isinstance(experiment, Experiment) or self.problems:
            return None
        self.check_across_sections(experiment)
        return None if self.problems else experiment

    def component(
        self, kind: str, raw: Any, path: KeyPath, prepare: Callable[[dict[str, Any]], None] | None = None
    ) -> BaseModel | None:
        """The options of the component that ``raw`` names, checked with its model; None if there are problems."""
        if not isinstance(raw, dict):
            self.problems.append(Problem(path, f"expected a mapping with a name (got {short(raw)})"))
            return None
        name = raw.get("name")
        if not isinstance(name, str):
            self.problems.append(Problem((*path, "name"), f"name of the {kind} is missing"))
            return None
        model = self.model_of(kind, name, (*path, "name"))
        content = dict(raw)
        if prepare is not None:
            prepare(content)
        config = self.validated(model, content, path, raw) if model else None
        if isinstance(config, BackboneConfig | DatasetConfig):
            self.parts.append(config)
        return config

    def model_of(self, kind: str, name: str, path: KeyPath) -> type[BaseModel] | None:
        """The model of the options of a component; None, and a problem, if its plugin is missing or broken."""
        try:
            entry = self.plugins.find(kind, name)
        except PluginError as error:
            self.problems.append(Problem(path, str(error), self.plugins.is_broken(kind, name)))
            return None
        try:
            return config_model(kind, entry)
        except PluginError as error:
            self.problems.append(Problem(path, str(error), is_plugin=True))
            return None

    def train(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The section, with the options of the optimiser and the schedule that it names, or of the usual ones."""
        content = dict(raw)
        for kind, usual in (("optimizer", "adamw"), ("schedule", "constant")):
            if isinstance(options := content.get(kind), dict):
                named = options if options.get("name") is not None else {**options, "name": usual}
                made = self.component(kind, named, ("train", kind))
                content[kind] = made or _unchecked(config_base(kind))
        return content

    def task(self, raw: Any, path: KeyPath) -> Any:
        """The options of a task, with those of its dataset and metrics."""

        def with_parts(content: dict[str, Any]) -> None:
            if "dataset" in content:
                dataset = self.component("dataset", content["dataset"], (*path, "dataset"))
                content["dataset"] = dataset or _unchecked(DatasetConfig)
            if isinstance(content.get("metrics"), list):
                content["metrics"] = [
                    self.component("metric", item, (*path, "metrics", index)) or item
                    for index, item in enumerate(content["metrics"])
                ]

        return self.component("task", raw, path, with_parts) or _unchecked(TaskConfig)

    def validated(self, model: type[BaseModel], content: Any, path: KeyPath, raw: Any) -> BaseModel | None:
        """``content`` as a ``model``; None, and problems, if it is not valid."""
        try:
            return model.model_validate(content, context=self.context)
        except ValidationError as error:
            self.problems += validation_problems(error, model, raw, path)
            return None

    def check_across_sections(self, experiment: Experiment) -> None:
        """Checks what no single section can know."""
        self.check_tasks_together(experiment)
        for index, task in enumerate(experiment.tasks):
            dataset_entry = self.plugins.find("dataset", task.dataset.name)
            task.dataset._unusable_sources = frozenset(
                builder.source for builder in dataset_entry.builders if {*builder.lacks} & {*task.needed_fields}
            )
            if experiment.train.epochs and not task.dataset.train:
                where: KeyPath = ("tasks", index, "dataset", "train")
                self.problems.append(Problem(where, "there is no split to train on (train.epochs=0 only evaluates)"))
            self.problems += target_problems(self.plugins, index, task)
            self.problems += image_problems(experiment.backbone, index, task, for_demo=self.for_demo)
        names = {task.display_name for task in experiment.tasks}
        for index, result in enumerate(experiment.published.results if experiment.published else []):
            if result.task not in names:
                where = ("published", "results", index, "task")
                self.problems.append(Problem(where, f"there is no task '{result.task}' in this experiment"))

    def check_tasks_together(self, experiment: Experiment) -> None:
        """Checks what several tasks on one backbone must agree on."""
        labels = [task.display_name for task in experiment.tasks]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                where: KeyPath = ("tasks", index, "label")
                message = f"two tasks are called '{label}'; give one of them a label of its own"
                self.problems.append(Problem(where, message))
            if label in RESERVED_LABELS:
                message = f"data.json of a run keeps something else under '{label}'; give the task another label"
                self.problems.append(Problem(("tasks", index, "label"), message))
        micro_batches = experiment.train.micro_batches
        for index, task in enumerate(experiment.tasks):
            if task.batch_size is not None and task.batch_size < micro_batches:
                message = f"train.micro_batches {micro_batches} is more than batch_size {task.batch_size}"
                self.problems.append(Problem(("tasks", index, "batch_size"), message))
        if not any(task.sampling_weight for task in experiment.tasks):
            self.problems.append(Problem(("tasks", 0, "sampling_weight"), "the sampling_weight of every task is 0"))


def _unchecked(model: type[BaseModel]) -> Any:
    """A placeholder for a section whose problems are already noted, so that the rest can still be checked."""
    return model.model_construct()


__all__ = ["Experiment", "Layer", "dotted", "load_experiment", "parse_overrides"]
