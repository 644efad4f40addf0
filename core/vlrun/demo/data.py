"""How ``--demo`` prepares its files: with the readers of real data."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.errors import DataError, PluginError, first_few
from vlrun.files import made_whole
from vlrun.interfaces.demo_provider import DemoFiles, DemoProvider
from vlrun.plugins.manager import CORE, GROUP

if TYPE_CHECKING:
    from vlrun.plugins.entries import Builder, FeatureFormat
    from vlrun.plugins.manager import Plugins

CACHE_VARIABLE = "VLRUN_CACHE"

_PICTURES_A_LINE = 500

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
        provider: where it comes from; its ``overrides`` set the schedule.
        root: the folder that holds everything; it serves as the data root.
        files: what a backbone needs to know, for ``BackboneConfig.demo_overrides``.
        datasets: the requested datasets, by name.
    """

    provider: DemoProvider
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
    provider = provider_of(plugins, datasets)
    if from_pictures and provider.detector is None:
        raise PluginError(f"demo data '{provider.name}' has no detector that could start from its pictures; use --demo")
    preparation = _Preparation(plugins, provider, cache or cache_folder(), say, from_pictures, reads_pictures)
    return preparation.run(list(dict.fromkeys(datasets)))


def cache_folder() -> Path:
    """Where caches belong: ``VLRUN_CACHE``, else ``XDG_CACHE_HOME``, else ``~/.cache``."""
    named = os.environ.get(CACHE_VARIABLE) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named).expanduser().absolute()


def provider_of(plugins: Plugins, datasets: Sequence[str]) -> DemoProvider:
    """The provider that has all of ``datasets``: one vocabulary and one kind of regions have to fit them all."""
    providers = plugins.demo_providers()
    if not providers:
        raise PluginError("no installed plugin has demo data; install one that implements the hook vlrun_demo_data")
    for provider in providers:
        if all(name in provider.datasets for name in datasets):
            return provider
    unknown = [name for name in datasets if not any(name in provider.datasets for provider in providers)]
    problems = [f"there is no demo data for dataset '{name}'" for name in unknown]
    raise PluginError(
        [
            *(problems or [f"no demo data has all of these datasets: {', '.join(datasets)}"]),
            "demo data that is installed:",
            *(f"    '{provider.name}' has {', '.join(provider.datasets) or 'nothing'}" for provider in providers),
        ]
    )


class _Preparation:
    """Makes the missing parts of one provider's data."""

    def __init__(
        self,
        plugins: Plugins,
        provider: DemoProvider,
        cache: Path,
        say: Say,
        from_pictures: bool,
        reads_pictures: bool,
    ) -> None:
        self.plugins = plugins
        self.provider = provider
        self.say = say
        self.from_pictures = from_pictures
        self.reads_pictures = reads_pictures
        self.root = cache / "vlrun" / f"demo-{provider.name}-{provider.version}-{code_fingerprint()}"

    def run(self, datasets: Sequence[str]) -> DemoData:
        try:
            self.make([(path, make) for path, make in self.parts(datasets) if not path.exists()])
        except OSError as error:
            raise DataError(
                f"{self.root}: cannot write the demo data: {error.strerror or error}. "
                f"The environment variable {CACHE_VARIABLE} names another folder for it"
            ) from error
        provider = self.provider
        return DemoData(
            provider,
            self.root,
            DemoFiles(self.root / "vocabulary.txt", provider.region_feature_size, provider.num_regions),
            {
                name: DemoDataset(self.annotations(name), self.features(images), self.pictures(images))
                for name in datasets
                for images in (provider.datasets[name].image_set,)
            },
        )

    def annotations(self, dataset: str) -> Path:
        return self.root / "annotations" / dataset

    def features(self, image_set: str) -> Path:
        return self.root / ("detected" if self.from_pictures else "features") / image_set

    def pictures(self, image_set: str) -> Path:
        return self.all_pictures(image_set) if self.reads_pictures else self.root / "pictures" / image_set

    def all_pictures(self, image_set: str) -> Path:
        return self.root / "sources" / f"{image_set}-pictures"

    def parts(self, datasets: Sequence[str]) -> Iterator[tuple[Path, Callable[[Path], object]]]:
        """The path of each part, and what makes it at a given path; later parts read earlier ones."""
        provider, sources = self.provider, self.root / "sources"
        yield self.root / "vocabulary.txt", provider.write_vocabulary
        for name in datasets:
            yield sources / name, _in_folder(partial(provider.write_annotations, name))
            yield self.annotations(name), _in_folder(partial(self.builder(name).build, sources / name))
        for image_set in dict.fromkeys(provider.datasets[name].image_set for name in datasets):
            if self.from_pictures or self.reads_pictures:
                pictures = self.all_pictures(image_set)
                yield pictures, _in_folder(partial(provider.write_all_pictures, image_set))
            if self.reads_pictures:
                continue
            if self.from_pictures:
                yield self.features(image_set), partial(self.detect, pictures)
            else:
                files = sources / f"{image_set}-features"
                yield files, _in_folder(partial(provider.write_features, image_set))
                yield self.features(image_set), partial(self.build_store, files)
            yield self.pictures(image_set), _in_folder(partial(provider.write_pictures, image_set))

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

    def builder(self, dataset: str) -> Builder:
        wanted = self.provider.datasets[dataset].builder
        builders = self.plugins.find("dataset", dataset).builders
        for builder in builders:
            if builder.source == wanted:
                return builder
        installed = ", ".join(builder.source for builder in builders) or "none"
        raise PluginError(
            f"demo data '{self.provider.name}' needs the builder '{wanted}' of dataset '{dataset}' (found: {installed})"
        )

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


def code_fingerprint() -> str:
    """A hash of every file of vlrun and of all installed plugins: of any code that may have made the data.

    A version number, or a list of modules kept by hand, would leave stale files behind while the code is worked on.
    """
    packages = {CORE} | {point.module.partition(".")[0] for point in entry_points(group=GROUP)}
    digest = hashlib.blake2b(digest_size=5)
    for package in sorted(packages):
        spec = find_spec(package)
        for folder in sorted((spec.submodule_search_locations or []) if spec is not None else []):
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".pyc"):
                digest.update(f"{package}/{file.relative_to(folder)}\x1f".encode() + file.read_bytes())
    return digest.hexdigest()


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

    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"demo data: waiting for another process that prepares {lock.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
