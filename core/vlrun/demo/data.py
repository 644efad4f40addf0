"""How ``--demo`` prepares its files: with the readers of real data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.errors import DataError, PluginError, first_few
from vlrun.files import made_whole, open_itself, write_text
from vlrun.interfaces.demo_provider import DemoFiles, DemoImage, DemoProvider
from vlrun.plugins.code import code_hash

if TYPE_CHECKING:
    from vlrun.plugins.entries import Builder, DemoSource, FeatureFormat
    from vlrun.plugins.manager import Plugins

CACHE_VARIABLE = "VLRUN_CACHE"

_PICTURES_A_LINE = 500
_GENERATING = ("blocks", "data", "features", "foreign", "interfaces", "files.py", "seeds.py")
"""The parts of the core that write vocabularies, annotations and features, or draw."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoDataset:
    """The paths for a dataset's options of these names."""

    annotations: Path
    features: Path
    pictures: Path


@dataclass(frozen=True)
class DemoData:
    """Prepared demo data.

    Attributes:
        provider: where it comes from.
        overrides: dotted experiment options of a schedule that suits these datasets.
        root: the folder that holds everything; it serves as the data root.
        files: what a backbone needs to know, for ``BackboneConfig.demo_overrides``.
        datasets: the requested datasets, by name.
    """

    provider: DemoProvider
    overrides: Mapping[str, Any]
    root: Path
    files: DemoFiles
    datasets: Mapping[str, DemoDataset]


def prepare_demo(
    plugins: Plugins,
    datasets: Sequence[str],
    say: Say = lambda message: None,
    *,
    cache: Path | None = None,
    from_pictures: bool = False,
    reads_pictures: bool = False,
) -> DemoData:
    """Generates demo data for ``datasets`` and turns it into annotations and features as if it were downloaded.

    The result is cached in a folder whose name changes with the provider's version and with the code that made it.
    Each part appears when it is finished, so a killed preparation leaves nothing that looks complete. If several
    processes prepare at once, one works and the others wait.

    Args:
        say: is told what is being done; not called if nothing has to be done.
        cache: the cache folder; by default ``VLRUN_CACHE``, ``XDG_CACHE_HOME`` or ``~/.cache``.
        from_pictures: whether regions are detected in the pictures; otherwise the provider has them.
        reads_pictures: whether the model reads the pictures themselves, so that all are drawn and nothing has regions.

    Raises:
        PluginError: no plugin has demo data for a dataset, or its reader is not installed; or there is no detector.
        DataError: the cache cannot be written.
    """
    provider, sources = demo_of(plugins, datasets)
    if from_pictures and provider.detector is None:
        raise PluginError(f"demo data '{provider.name}' has no detector that could start from its pictures; use --demo")
    preparation = _Preparation(plugins, provider, sources, cache or cache_folder(), say, from_pictures, reads_pictures)
    return preparation.run()


def cache_folder() -> Path:
    """Where caches belong: ``VLRUN_CACHE``, else ``XDG_CACHE_HOME``, else ``~/.cache``."""
    named = os.environ.get(CACHE_VARIABLE) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named).expanduser().absolute()


def demo_of(plugins: Plugins, datasets: Sequence[str]) -> tuple[DemoProvider, list[DemoSource]]:
    """The world that all of ``datasets`` have demo data of, for one vocabulary and one kind of regions have to fit
    them all; and these data, each dataset once.

    Raises:
        PluginError: a dataset has none, they are of different worlds, or of one that is not installed.
    """
    known, worlds = plugins.demo_sources(), plugins.demo_data()
    names = list(dict.fromkeys(datasets))
    if missing := [name for name in names if name not in known]:
        problems = [
            plugins.why_missing("demo source", name)
            if plugins.is_broken("demo source", name)
            else f"there is no demo data for dataset '{name}'"
            for name in missing
        ]
        installed = f"there is for: {', '.join(known) or 'none'}; plugins add theirs on the hook vlrun_demo_sources"
        raise PluginError([*problems, installed])
    sources = [known[name] for name in names]
    wanted = sorted({source.provider for source in sources})
    if len(wanted) > 1:
        listed = ", ".join(f"'{source.name}' of '{source.provider}'" for source in sources)
        raise PluginError(f"the demo data of these datasets are of different worlds: {listed}")
    if wanted[0] not in worlds:
        raise PluginError(f"demo data of {', '.join(names)}: {plugins.why_missing('demo data', wanted[0])}")
    provider = worlds[wanted[0]].make_provider()
    first: dict[str, DemoSource] = {}
    for source in sources:
        if (other := first.setdefault(source.image_set, source)).images != source.images:
            both = f"'{other.name}' and '{source.name}'"
            raise PluginError(f"the demo data of {both} mean different images by '{source.image_set}'")
        if source.images is None and source.image_set not in provider.image_sets:
            raise PluginError(
                f"{source.plugin}: the demo data of '{source.name}' are about images '{source.image_set}', which demo "
                f"data '{provider.name}' does not have (found: {', '.join(provider.image_sets)})"
            )
    return provider, sources


class _Preparation:
    """Makes the missing parts of the data of some datasets of one world."""

    def __init__(
        self,
        plugins: Plugins,
        provider: DemoProvider,
        sources: Sequence[DemoSource],
        cache: Path,
        say: Say,
        from_pictures: bool,
        reads_pictures: bool,
    ) -> None:
        self.plugins = plugins
        self.provider = provider
        self.sources = sources
        self.builders = {source.name: self.builder(source) for source in sources}
        self.known_images: dict[str, Sequence[DemoImage]] = {}
        self.say = say
        self.from_pictures = from_pictures
        self.reads_pictures = reads_pictures
        code = code_hash([type(provider).__module__], core=_GENERATING)
        self.root = cache / "vlrun" / f"demo-{provider.name}-{provider.version}-{code}"
        self.vocabulary, self.class_names = self.root / "vocabulary.txt", self.root / "class-names.txt"

    def run(self) -> DemoData:
        try:
            self.make([(path, make) for path, make in self.parts() if not path.exists()])
        except OSError as error:
            raise DataError(
                f"{self.root}: cannot write the demo data: {error.strerror or error}. "
                f"The environment variable {CACHE_VARIABLE} names another folder for it"
            ) from error
        provider = self.provider
        return DemoData(
            provider,
            provider.overrides(
                max(source.epochs for source in self.sources), min(source.learning_rate for source in self.sources)
            ),
            self.root,
            DemoFiles(
                self.vocabulary,
                provider.region_feature_size,
                provider.num_regions,
                self.class_names if provider.class_names else None,
            ),
            {
                source.name: DemoDataset(self.annotations(source), self.features(image_set), self.pictures(image_set))
                for source in self.sources
                for image_set in [self.image_set(source)]
            },
        )

    def annotations(self, source: DemoSource) -> Path:
        """Its name changes with the code that writes the official files, and with the code that reads them."""
        paths = (source.writer, source.images, self.builders[source.name].function)
        code = code_hash([path for path in paths if path is not None], core=())
        return self.root / "annotations" / f"{source.name}-{code}"

    def image_set(self, source: DemoSource) -> str:
        """Name of its folders, which changes with the code that asks for the images if the world has them not."""
        if source.images is None:
            return source.image_set
        return f"{source.image_set}-{code_hash([source.images], core=())}"

    def features(self, image_set: str) -> Path:
        if not self.from_pictures:
            return self.root / "features" / image_set
        code = code_hash([self.plugins.find("detector", str(self.provider.detector)).factory], core=())
        return self.root / f"detected-{code}" / image_set

    def pictures(self, image_set: str) -> Path:
        return self.all_pictures(image_set) if self.reads_pictures else self.root / "pictures" / image_set

    def all_pictures(self, image_set: str) -> Path:
        return self.root / "sources" / f"{image_set}-pictures"

    def parts(self) -> Iterator[tuple[Path, Callable[[Path], object]]]:
        """The path of each part, and what makes it at a given path; later parts read earlier ones."""
        provider, sources = self.provider, self.root / "sources"
        yield self.vocabulary, provider.write_vocabulary
        if provider.class_names:
            yield self.class_names, partial(write_text, text="".join(f"{name}\n" for name in provider.class_names))
        for source in self.sources:
            built = self.annotations(source)
            files = sources / built.name
            yield files, _in_folder(partial(self.write_texts, source))
            yield built, _in_folder(partial(self.builders[source.name].build, files))
        for image_set, source in {self.image_set(source): source for source in self.sources}.items():
            if self.from_pictures or self.reads_pictures:
                pictures = self.all_pictures(image_set)
                yield pictures, _in_folder(partial(self.write_images, provider.write_all_pictures, source))
            if self.reads_pictures:
                continue
            if self.from_pictures:
                yield self.features(image_set), partial(self.detect, pictures)
            else:
                files = sources / f"{image_set}-features"
                yield files, _in_folder(partial(self.write_images, provider.write_features, source))
                yield self.features(image_set), partial(self.build_store, files)
            yield self.pictures(image_set), _in_folder(partial(self.write_images, provider.write_pictures, source))

    def make(self, parts: Sequence[tuple[Path, Callable[[Path], object]]]) -> None:
        if not parts:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with only_one(self.root / "lock", self.say):
            for path, make in parts:
                if path.exists():  # made by the process that we waited for
                    continue
                self.say(f"demo data: making {path.relative_to(self.root)}")
                _remove_leftovers(path)
                with made_whole(path) as draft:
                    make(draft)

    def images(self, source: DemoSource) -> Sequence[DemoImage]:
        if source.image_set not in self.known_images:
            self.known_images[source.image_set] = source.images_of(self.provider)
        return self.known_images[source.image_set]

    def write_texts(self, source: DemoSource, folder: Path) -> None:
        source.write(folder, self.images(source))

    def write_images(
        self, write: Callable[[Sequence[DemoImage], Path], None], source: DemoSource, folder: Path
    ) -> None:
        write(self.images(source), folder)

    def builder(self, source: DemoSource) -> Builder:
        builders = self.plugins.find("dataset", source.name).builders
        for builder in builders:
            if builder.source == source.builder:
                return builder
        installed = ", ".join(builder.source for builder in builders) or "none"
        raise PluginError(f"the demo data of '{source.name}' need its builder '{source.builder}' (found: {installed})")

    def build_store(self, files: Path, store: Path) -> None:
        from vlrun.features.build import build_store
        from vlrun.features.origin import FeatureOrigin

        formats: Mapping[str, FeatureFormat] = self.plugins.feature_formats()
        wanted = self.provider.feature_format
        if wanted not in formats:
            raise PluginError(
                f"demo data '{self.provider.name}' needs the feature format '{wanted}' "
                f"(found: {', '.join(formats) or 'none'})"
            )
        origin = FeatureOrigin(f"demo data '{self.provider.name}'")
        build_store([files], store, formats[wanted], origin=origin)

    def detect(self, pictures: Path, store: Path) -> None:
        """As ``runner features extract`` does it."""
        from vlrun.config.components import config_model
        from vlrun.features.extract import extract_store, find_pictures

        entry = self.plugins.find("detector", str(self.provider.detector))
        options = config_model("detector", entry).model_validate({"name": entry.name})

        def progress(what: str, done: int, total: int | None) -> None:
            if done and done % _PICTURES_A_LINE == 0:
                self.say(f"demo data: {what}: {done:,} of {total:,} pictures")

        extracted = extract_store(
            find_pictures(pictures), store, partial(entry.build, options), source=pictures.name, progress=progress
        )
        if extracted.failed:
            raise DataError(first_few(extracted.failed))


def _in_folder(fill: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        fill(folder)

    return make


def _remove_leftovers(path: Path) -> None:
    """Removes the drafts of killed processes."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def only_one(lock: Path, say: Say) -> Iterator[None]:
    """Lets one process in at a time; a killed one releases the lock."""
    import fcntl

    with open_itself(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"demo data: waiting for another process that prepares {lock.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
