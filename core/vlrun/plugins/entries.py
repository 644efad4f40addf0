"""What a plugin declares: light records that name a component, its options and the code that makes it.

Code is named by its path, ``"package.module:name"``, and imported when it is first used. So a declaration costs
nothing, and the module that holds it needs neither pydantic nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlrun.errors import PluginError
from vlrun.features.origin import UNKNOWN, FeatureOrigin

if TYPE_CHECKING:
    from types import ModuleType

    from pydantic import BaseModel

    from vlrun.features.formats import FeatureSource
    from vlrun.interfaces.demo_provider import DemoImage, DemoProvider

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def resolve(path: str, plugin: str = "") -> Any:
    """Imports what ``"package.module:name"`` names, or the module itself if the path has no colon.

    Args:
        plugin: name of the plugin whose declaration holds the path, for the message.

    Raises:
        PluginError: the module cannot be imported, or has no such name.
    """
    module, _, name = path.partition(":")
    try:
        home = import_module(module)
        return attrgetter(name)(home) if name else home
    except (Exception, SystemExit) as error:
        raise PluginError(f"{plugin or 'plugin'}: cannot load {path}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Base of all declarations: paths to code, and the plugin that they come from.

    Attributes:
        plugin: distribution and version, for messages; filled in when plugins are loaded.
    """

    paths: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that hold paths."""

    plugin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for attribute in self.named_paths():
            path = getattr(self, attribute)
            if not _is_path(path, needs_name=not isinstance(self, Command)):
                raise ValueError(f"{attribute}={path!r} is not the path of something; write 'package.module:name'")

    def named_paths(self) -> list[str]:
        """The names in ``paths`` whose fields are set."""
        return [attribute for attribute in self.paths if getattr(self, attribute) is not None]

    def resolve(self, attribute: str) -> Any:
        """Imports what the path in the field ``attribute`` names; raises PluginError as the function does."""
        return resolve(getattr(self, attribute), self.plugin)

    def declared_by(self, plugin: str) -> Self:
        """A copy of this declaration that knows its plugin."""
        return replace(self, plugin=plugin)


def _is_path(path: object, needs_name: bool) -> bool:
    if not isinstance(path, str):
        return False
    parts = path.split(":")
    return len(parts) == (2 if needs_name else 1) and all(_MODULE.fullmatch(part) for part in parts)


@dataclass(frozen=True)
class BuildReport:
    """What an annotation builder wrote: examples per split, and remarks worth printing."""

    counts: dict[str, int]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Builder(Declaration):
    """Turns source files of one kind into the JSON-lines files that a dataset reads.

    Attributes:
        source: name of the source layout, as in ``runner data build DATASET --from SOURCE``.
        summary: which files the source has to hold, in one line.
        function: path of ``(*arguments, source folder or file, output folder) -> BuildReport``; raises DataError.
        arguments: first arguments of the function, such as which of several collections to build.
        lacks: fields of the annotation files that such sources do not have, such as ``"answers"``; tasks that need
            them (``TaskConfig.needed_fields``) are offered other sources.
        reads_output: whether it adds to annotations that are built already; the function then has a last argument, the
            folder that holds them, which it only reads.
    """

    paths = ("function",)

    source: str
    summary: str
    function: str
    arguments: tuple[Any, ...] = ()
    lacks: tuple[str, ...] = ()
    reads_output: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.lacks, str):
            raise ValueError(f"lacks={self.lacks!r} is a single text; write a tuple, ({self.lacks!r},)")

    def build(self, path: Path, output: Path, existing: Path | None = None) -> BuildReport:
        """Builds files from the source at ``path`` in ``output``; ``existing`` is where they will go, if elsewhere."""
        arguments = (path, output, existing or output) if self.reads_output else (path, output)
        report: BuildReport = self.resolve("function")(*self.arguments, *arguments)
        return report


@dataclass(frozen=True, kw_only=True)
class Entry(Declaration):
    """One component that a plugin offers.

    Attributes:
        name: the name used in YAML.
        summary: one line, shown by ``runner list``.
        config: path of the pydantic model of the options; its module must not import torch.
        factory: path of the class, class method or function that makes the component. Datasets are made with
            ``factory(config, split)``; optimisers and schedules take a second argument, too (see their hooks);
            everything else is made with ``factory(config)``.
        target: tasks, datasets and metrics: the kind of target, such as ``"referent"``. A task takes datasets and
            metrics of the same kind; a metric without one fits any task.
        record: datasets: path of the pydantic model of one line of the annotation files, which is the published schema.
        builders: datasets: how annotation files are made from the official ones.
        obtain: datasets: where a user gets the source files; `run` and `validate` say it where annotations are missing,
            and `data build` where the source is.
    """

    paths = ("config", "factory", "record")

    name: str
    summary: str
    config: str
    factory: str
    target: str | None = None
    record: str | None = None
    builders: tuple[Builder, ...] = ()
    obtain: str = ""

    def build(self, config: BaseModel, *arguments: Any) -> Any:
        """Makes the component with these options; some kinds take another argument, such as a dataset its split."""
        return self.resolve("factory")(config, *arguments)

    def load_config(self) -> Any:
        """Imports the model of the options; ``vlrun.config.components`` checks what it derives from."""
        return self.resolve("config")

    def load_record(self) -> Any:
        """Imports the model of one line of the annotation files; only for entries with a ``record``."""
        return self.resolve("record")

    def declared_by(self, plugin: str) -> Self:
        builders = tuple(builder.declared_by(plugin) for builder in self.builders)
        return replace(self, plugin=plugin, builders=builders)


@dataclass(frozen=True, kw_only=True)
class FeatureFormat(Declaration):
    """A layout of region-feature files that can be imported.

    Attributes:
        name: as in ``runner features build --from NAME``.
        summary: what SOURCE has to be, in one line.
        opener: path of ``(file or folder) -> FeatureSource``; raises DataError.
        recogniser: path of ``(file or folder) -> bool``, which quickly tells whether it looks like this format.
    """

    paths = ("opener", "recogniser")

    name: str
    summary: str
    opener: str
    recogniser: str | None = None

    def open(self, path: Path) -> FeatureSource:
        """Opens the source at ``path``."""
        source: FeatureSource = self.resolve("opener")(path)
        return source

    def recognises(self, path: Path) -> bool:
        """Whether the file or folder at ``path`` looks like this format."""
        return self.recogniser is not None and bool(self.resolve("recogniser")(path))


@dataclass(frozen=True, kw_only=True)
class WeightFormat(Declaration):
    """A layout of checkpoints that can be imported, with ``runner weights import --from NAME``.

    Attributes:
        name: the name of the layout, such as ``"rosita"``.
        backbone: name of the backbone, or of whatever else has weights, that the result is for.
        summary: one line on the files it reads.
        translator: path of ``(content of the file) -> {our key: tensor}``; pure, raises CheckpointError.
        partial: whether such a file fills only a part of the backbone by design, as BERT's does. Loading then demands
            that all of the file is used, and that it fills all but the parts in ``random``.
        random: parts of the backbone that such a file lacks; they start random, and every run says so.
        seen: images that such weights are known to have seen, as ``vlrun.data.declared`` writes them; every import
            records them, so that leaks can be found.
        features: what made the features that they were trained on, as far as it is known; runs compare it with stores.
        complete: whether the translator sees to it that no tensor is left behind; then none is reported as such.
        reader: path of ``(file) -> content`` for files that torch does not read; raises CheckpointError.
        licence: a note on the terms of such files, recorded with every import; what a source itself says goes before.
        exporter: path of ``(our tensors, their options) -> (tensors, config.json)``, the way back of ``runner weights
            export --to NAME``; raises CheckpointError. The options are those of ``BackboneConfig.options_of_weights``.
        head_meanings: what the numbers of heads in all such files mean, by neutral name, beyond what their shapes say.
        head_reader: path of ``(content of the file) -> {neutral name: meaning}`` for what the file itself says of them,
            such as ``{"answer_head": {"answers": ["yes", "no"]}}``; pure, raises CheckpointError.
        answer_lists: number of rows of an answer head -> the published list that belongs to it, in words.
    """

    paths = ("translator", "reader", "exporter", "head_reader")

    name: str
    backbone: str
    summary: str
    translator: str
    partial: bool = False
    random: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    features: FeatureOrigin = UNKNOWN
    complete: bool = False
    reader: str | None = None
    licence: str = ""
    exporter: str | None = None
    head_meanings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    head_reader: str | None = None
    answer_lists: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("seen", self.seen), ("random", self.random)):
            if isinstance(value, str):
                raise ValueError(f"{name}={value!r} is a single text; write a tuple, ({value!r},)")

    def translate(self, content: dict[str, Any]) -> dict[str, Any]:
        """The tensors of a file under our names."""
        translated: dict[str, Any] = self.resolve("translator")(content)
        return translated

    def heads_of(self, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What the heads of a file mean, by neutral name: as the format says of all files, then as this one says."""
        general, own = self.head_meanings, self.resolve("head_reader")(content) if self.head_reader else {}
        return {name: {**general.get(name, {}), **own.get(name, {})} for name in [*general, *own]}

    def export(self, tensors: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors under the names of this layout, and its ``config.json``; only for formats with an exporter."""
        exported: tuple[dict[str, Any], dict[str, Any]] = self.resolve("exporter")(tensors, options)
        return exported


@dataclass(frozen=True)
class SubmissionRows:
    """What a submission file holds: the example ids in its order, with repetitions, and problems of its rows."""

    ids: list[str]
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SubmissionFormat(Declaration):
    """A format of files that an evaluation server takes, for ``runner submit-check FILE --for NAME``.

    Attributes:
        name: dataset and phase, such as ``"vqav2-test-dev"``.
        dataset: name of the dataset whose annotations hold the expected ids.
        splits: the file must hold exactly the ids of one of these; the first is the usual one.
        summary: what the file looks like, in one line.
        reader: path of ``(file) -> SubmissionRows``; raises DataError for a file of another kind.
        id_reader: path of ``(official list of questions, as downloaded) -> ids``; raises DataError.
        sizes: split -> its number of examples as published; annotations with fewer are a part, and prove nothing.
    """

    paths = ("reader", "id_reader")

    name: str
    dataset: str
    splits: tuple[str, ...]
    summary: str
    reader: str
    id_reader: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    def read(self, path: Path) -> SubmissionRows:
        """Reads the rows of a submission file."""
        rows: SubmissionRows = self.resolve("reader")(path)
        return rows

    def official_ids(self, path: Path) -> list[str]:
        """Reads the ids of an official list of questions."""
        ids: list[str] = self.resolve("id_reader")(path)
        return ids


@dataclass(frozen=True, kw_only=True)
class DemoEntry(Declaration):
    """A world of embedded demo data, for ``--demo``; the data of datasets are ``DemoSource``.

    Attributes:
        name: the name that lists of plugins show.
        summary: what the data are, in one line.
        provider: path of a ``DemoProvider``, whose constructor takes no arguments.
    """

    paths = ("provider",)

    name: str
    summary: str
    provider: str

    def make_provider(self) -> DemoProvider:
        """Makes the provider."""
        provider: DemoProvider = self.resolve("provider")()
        return provider


@dataclass(frozen=True, kw_only=True)
class DemoSource(Declaration):
    """The demo data of one dataset: what is said about the images of a demo's world, in the official file format.

    Attributes:
        name: the dataset.
        provider: name of the ``DemoEntry`` whose images they are about; tasks train together over one world.
        image_set: name of the images there; datasets over the same images share their features.
        images: path of ``() -> Sequence[vlrun.DemoImageRequest]``, by which the world makes the set; None if it has it.
        builder: name of the dataset's builder that reads what is written, such as ``official``.
        writer: path of ``(*arguments, folder, images) -> None``, which writes the files about a sequence of
            ``vlrun.DemoImage`` into the empty folder. It is imported where its world is, and may need its package.
        arguments: first arguments of the writer.
        epochs, learning_rate: with which a tiny backbone learns it; of several tasks the most and the lowest count.
    """

    paths = ("writer", "images")

    name: str
    provider: str
    image_set: str
    builder: str
    writer: str
    images: str | None = None
    arguments: tuple[Any, ...] = ()
    epochs: int = 8
    learning_rate: float = 5e-4

    def images_of(self, world: DemoProvider) -> Sequence[DemoImage]:
        """The images that the files are about."""
        return world.images(self.image_set) if self.images is None else world.make_images(self.resolve("images")())

    def write(self, folder: Path, images: Sequence[DemoImage]) -> None:
        """Writes the official files about ``images`` into ``folder``."""
        self.resolve("writer")(*self.arguments, folder, images)


@dataclass(frozen=True, kw_only=True)
class Command(Declaration):
    """A verb of ``runner``.

    Attributes:
        name: the verb, as in ``runner NAME``.
        summary: what it does, in one line for the help.
        module: path of a module with ``add_arguments(parser)`` and ``run(arguments) -> exit status``. It is imported
            only when the verb is used or completed; heavy imports belong inside ``run``.
    """

    paths = ("module",)

    name: str
    summary: str
    module: str

    def load(self) -> ModuleType:
        """Imports the module.

        Raises:
            PluginError: the module cannot be imported, or lacks one of the two functions.
        """
        module: ModuleType = self.resolve("module")
        if missing := [name for name in ("add_arguments", "run") if not callable(getattr(module, name, None))]:
            raise PluginError(f"{self.plugin}: {self.module} (verb '{self.name}') has no {' and no '.join(missing)}")
        return module
