"""Finds plugins through entry points and loads them, so that one that fails does not affect the others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from vlrun.errors import PluginError
from vlrun.plugins import hookspecs
from vlrun.plugins.downloads import Download
from vlrun.plugins.entries import (
    Command,
    Declaration,
    DemoEntry,
    DemoSource,
    Entry,
    FeatureFormat,
    SubmissionFormat,
    WeightFormat,
)

GROUP = "vlrun"
CORE = "vlrun"

HOOKS = {
    "backbone": "vlrun_backbones",
    "task": "vlrun_tasks",
    "dataset": "vlrun_datasets",
    "metric": "vlrun_metrics",
    "reporter": "vlrun_reporters",
    "optimizer": "vlrun_optimizers",
    "schedule": "vlrun_schedules",
    "callback": "vlrun_callbacks",
    "detector": "vlrun_detectors",
    "feature format": "vlrun_feature_formats",
    "weight format": "vlrun_weight_formats",
    "submission": "vlrun_submissions",
    "download": "vlrun_downloads",
    "demo data": "vlrun_demo_data",
    "demo source": "vlrun_demo_sources",
    "command": "vlrun_commands",
}
_DECLARATIONS: dict[str, type[Declaration]] = {  # of all other kinds: Entry
    "feature format": FeatureFormat,
    "weight format": WeightFormat,
    "submission": SubmissionFormat,
    "download": Download,
    "demo data": DemoEntry,
    "demo source": DemoSource,
    "command": Command,
}
_CORE_REQUIREMENT = re.compile(rf"{CORE}\s*(\[[^\]]*\])?\s*\(?(?P<versions>([<>=!~][^;()]*?)?)\)?\s*(;.*)?")


@dataclass
class PluginRecord:
    """One entry point as ``runner list-plugins`` shows it.

    Attributes:
        status: ``ok``, ``clash`` (some of its names are refused), ``incompatible`` (made for another version of the
            core) or ``broken``.
        reasons: why the status is not ``ok``.
        offers: kind -> names that can be used.
        package: the import package that the entry point is in.
    """

    name: str
    distribution: str
    version: str
    status: str = "ok"
    reasons: list[str] = field(default_factory=list)
    offers: dict[str, list[str]] = field(default_factory=dict)
    package: str = ""

    @property
    def label(self) -> str:
        """Distribution and version, as messages name a plugin."""
        return f"{self.distribution} {self.version}".rstrip()

    def fail(self, status: str, reason: str) -> None:
        """Sets another status than ``ok`` and notes the reason."""
        self.status = status
        self.reasons.append(reason)


@dataclass(frozen=True)
class _Offer:
    record: PluginRecord
    item: Any


class Plugins:
    """Everything that the installed plugins offer. ``create_plugins()`` makes one; there is no global one."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._offers: dict[tuple[str, str], _Offer] = {}
        self._clashes: dict[tuple[str, str], list[str]] = {}

    def entries(self, kind: str) -> list[Entry]:
        """All usable components of a kind (backbone, task, dataset, metric, reporter or detector), sorted by name."""
        return list(self._by_name(kind).values())

    def names(self, kind: str) -> list[str]:
        """The names of everything usable of a kind, sorted."""
        return list(self._by_name(kind))

    def find(self, kind: str, name: str) -> Entry:
        """The component of a kind that has this name.

        Raises:
            PluginError: no plugin offers it; the message is that of ``why_missing``.
        """
        offer = self._offers.get((kind, name))
        if offer is None:
            raise PluginError(self.why_missing(kind, name))
        entry: Entry = offer.item
        return entry

    def provider_of(self, kind: str, name: str) -> PluginRecord:
        """The plugin that offers ``name``; raises PluginError as ``find`` does."""
        self.find(kind, name)
        return self._offers[kind, name].record

    def is_built_in(self, kind: str, name: str) -> bool:
        """Whether the core itself offers ``name``."""
        return self.provider_of(kind, name).distribution == CORE

    def is_broken(self, kind: str, name: str) -> bool:
        """Whether ``name`` may be missing because a plugin is broken or clashes, and not because the name is wrong."""
        return (kind, name) in self._clashes or any(_may_offer(record, name) for record in self._failed())

    def why_missing(self, kind: str, name: str) -> str:
        """The message on a missing name: what is installed, what was probably meant, which plugin may be the cause."""
        if (kind, name) in self._clashes:
            labels = " and ".join(self._clashes[kind, name])
            return f"{kind} '{name}' is offered by {labels}; uninstall one of them"
        installed = self.names(kind)
        message = f"no {kind} '{name}' is installed (found: {', '.join(installed) or 'none'})."
        if near := difflib.get_close_matches(name, installed, n=1):
            message += f" Did you mean '{near[0]}'?"
        failed = self._failed()
        likely = [record for record in failed if _may_offer(record, name)] or failed
        if likely:
            causes = [f"{record.label} may offer it but is {record.status}: {record.reasons[0]}" for record in likely]
            return f"{message} Plugin {'; plugin '.join(causes)}"
        return message if near else f"{message} Install the plugin that offers it"

    def offers(self) -> Iterator[tuple[PluginRecord, str, Any]]:
        """(plugin, kind, declaration) of everything usable."""
        for (kind, _), offer in self._offers.items():
            yield offer.record, kind, offer.item

    def feature_formats(self) -> dict[str, FeatureFormat]:
        """The usable feature formats by name."""
        return self._by_name("feature format")

    def weight_formats(self) -> dict[str, WeightFormat]:
        """The usable weight formats by name."""
        return self._by_name("weight format")

    def submissions(self) -> dict[str, SubmissionFormat]:
        """The usable submission formats by name."""
        return self._by_name("submission")

    def downloads(self) -> dict[str, Download]:
        """All published files that plugins know of, by name."""
        return self._by_name("download")

    def demo_data(self) -> dict[str, DemoEntry]:
        """The usable worlds of demo data, by name."""
        return self._by_name("demo data")

    def demo_sources(self) -> dict[str, DemoSource]:
        """The demo data of datasets, by the dataset's name."""
        return self._by_name("demo source")

    def commands(self) -> list[Command]:
        """The verbs of ``runner``: first those of the core, in the order of the help, then those of plugins."""
        return [item for _, kind, item in self.offers() if kind == "command"]

    def _by_name(self, kind: str) -> dict[str, Any]:
        return {name: offer.item for (its_kind, name), offer in sorted(self._offers.items()) if its_kind == kind}

    def _failed(self) -> list[PluginRecord]:
        return [record for record in self.records if record.status in ("broken", "incompatible")]

    def _add(self, kind: str, offer: _Offer) -> None:
        key = (kind, offer.item.name)
        rivals = self._clashes.get(key)
        earlier = self._offers.get(key)
        if rivals is None and earlier is None:
            self._offers[key] = offer
            offer.record.offers.setdefault(kind, []).append(offer.item.name)
        elif earlier is not None and earlier.record.distribution == CORE:
            offer.record.fail("clash", f"{kind} '{offer.item.name}' is a built-in name; choose another")
        else:
            self._refuse(key, offer, earlier)

    def _refuse(self, key: tuple[str, str], offer: _Offer, earlier: _Offer | None) -> None:
        """Takes the name from all plugins that offer it: the order of loading must not decide what a file means."""
        kind, name = key
        if earlier is not None:
            del self._offers[key]
            earlier.record.offers[kind].remove(name)
            earlier.record.fail("clash", f"{kind} '{name}' is also offered by {offer.record.label}")
            self._clashes[key] = [earlier.record.label]
        offer.record.fail("clash", f"{kind} '{name}' is also offered by {self._clashes[key][0]}")
        self._clashes[key].append(offer.record.label)


def create_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Loads every plugin; one that fails is recorded with the reason, and the others work.

    Args:
        points: entry points to load instead of those that are installed.
    """
    plugins = Plugins()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for point in _distinct(entry_points(group=GROUP) if points is None else points):
        record = _make_record(point)
        plugins.records.append(record)
        if record.status == "ok":
            _load(manager, plugins, point, record)
    return plugins


def _distinct(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Each entry point once, that of the core first; a distribution can be on sys.path twice."""
    by_key = {(point.dist.name if point.dist else "", point.name, point.value): point for point in points}
    return [by_key[key] for key in sorted(by_key, key=lambda key: (key[0] != CORE, *key))]


def _make_record(point: EntryPoint) -> PluginRecord:
    """The record of a plugin, which fails if its distribution needs another version of the core."""
    from importlib.metadata import version

    # packaging.requirements would parse whole lines, but importing it doubles the time of this
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    package = point.module.partition(".")[0]
    if point.dist is None:
        return PluginRecord(point.name, "(no distribution)", "", package=package)
    record = PluginRecord(point.name, point.dist.name, point.dist.version, package=package)
    if point.dist.name == CORE:
        return record  # its requirement of itself is how it refuses a platform
    for line in point.dist.requires or []:
        needed = _CORE_REQUIREMENT.fullmatch(line)
        try:
            fits = needed is None or SpecifierSet(needed["versions"]).contains(version(CORE), prereleases=True)
        except InvalidSpecifier as error:
            record.fail("broken", f"its metadata are wrong: {error}")
        else:
            if not fits:
                record.fail(
                    "incompatible", f"it needs {line.partition(';')[0].strip()}, this is {CORE} {version(CORE)}"
                )
    return record


def _load(manager: pluggy.PluginManager, plugins: Plugins, point: EntryPoint, record: PluginRecord) -> None:
    try:
        module = point.load()
        manager.register(module, name=f"{record.distribution}:{point.name}")
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        record.fail("broken", _misspelt_hook(error))
        manager.unregister(error.plugin)
    except (Exception, SystemExit) as error:
        record.fail("broken", f"{type(error).__name__}: {error} (while importing {point.value})")
    else:
        for kind, hook in HOOKS.items():
            for implementation in getattr(manager.hook, hook).get_hookimpls():
                if implementation.plugin is module:
                    _collect(plugins, record, kind, hook, implementation.function)


def _collect(plugins: Plugins, record: PluginRecord, kind: str, hook: str, function: Any) -> None:
    expected = _DECLARATIONS.get(kind, Entry)
    try:
        items = list(function())
    except (Exception, SystemExit) as error:
        record.fail("broken", f"{type(error).__name__}: {error} (while calling {hook})")
        return
    for item in items:
        if isinstance(item, expected):
            plugins._add(kind, _Offer(record, item.declared_by(record.label)))
        else:
            record.fail("broken", f"{hook}: returned {item!r}, expected vlrun.{expected.__name__}")


def _misspelt_hook(error: pluggy.PluginValidationError) -> str:
    """The message on a hook that does not exist, with the nearest one that does."""
    hooks = list(HOOKS.values())
    hints = []
    for name in dir(error.plugin):
        if not name.startswith(f"{GROUP}_") or name in hooks:
            continue
        near = difflib.get_close_matches(name, hooks, n=1)
        hints.append(f"there is no hook '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))
    return "; ".join(hints) or str(error)


def _may_offer(record: PluginRecord, name: str) -> bool:
    """Whether a failed plugin may have offered ``name``, judged by its names, as nothing else is known of it."""
    plain = name.replace("_", "-").lower()
    words = {record.name.replace("_", "-").lower(), record.distribution.lower().removeprefix(f"{GROUP}-")}
    return any(plain.startswith(word) or word.startswith(plain) for word in words if word)
