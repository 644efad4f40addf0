"""Finds plugins through entry points, loads each in its own guard, and answers what is installed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from vlrun.errors import PluginError
from vlrun.plugins import hookspecs
from vlrun.plugins.entries import (
    Command,
    Declaration,
    DemoEntry,
    Entry,
    FeatureFormat,
    SubmissionFormat,
    WeightFormat,
)

if TYPE_CHECKING:
    from vlrun.interfaces.demo_provider import DemoProvider

GROUP = "vlrun"
CORE = "vlrun"

HOOKS = {
    "backbone": "vlrun_backbones",
    "task": "vlrun_tasks",
    "dataset": "vlrun_datasets",
    "metric": "vlrun_metrics",
    "reporter": "vlrun_reporters",
    "feature format": "vlrun_feature_formats",
    "weight format": "vlrun_weight_formats",
    "submission": "vlrun_submissions",
    "demo data": "vlrun_demo_data",
    "command": "vlrun_commands",
}
_DECLARATIONS: dict[str, type[Declaration]] = {  # others: Entry
    "feature format": FeatureFormat,
    "weight format": WeightFormat,
    "submission": SubmissionFormat,
    "demo data": DemoEntry,
    "command": Command,
}
_CORE_REQUIREMENT = re.compile(rf"{CORE}\s*(\[[^\]]*\])?\s*\(?(?P<versions>([<>=!~][^;()]*?)?)\)?\s*(;.*)?")


@dataclass
class PluginRecord:
    """One entry point as ``runner list-plugins`` shows it.

    ``status`` is ``ok``, ``clash`` (some of its names are refused), ``incompatible`` (made for another core version)
    or ``broken``; ``reasons`` say why. ``offers`` maps a kind to the names that can be used.
    """

    name: str
    distribution: str
    version: str
    status: str = "ok"
    reasons: list[str] = field(default_factory=list)
    offers: dict[str, list[str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()

    def fail(self, status: str, reason: str) -> None:
        self.status = status
        self.reasons.append(reason)


@dataclass(frozen=True)
class _Offer:
    record: PluginRecord
    item: Any


class Plugins:
    """Everything the installed plugins offer. Make one with ``create_plugins()``; there is no global one."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._offers: dict[tuple[str, str], _Offer] = {}
        self._clashes: dict[tuple[str, str], list[str]] = {}

    def entries(self, kind: str) -> list[Entry]:
        """All usable components of a kind: backbone, task, dataset, metric or reporter, by name."""
        return [offer.item for (of_kind, _), offer in sorted(self._offers.items()) if of_kind == kind]

    def names(self, kind: str) -> list[str]:
        """The names that can be used of any kind, in order."""
        return list(self._by_name(kind))

    def find(self, kind: str, name: str) -> Entry:
        """The component ``name``.

        Raises:
            PluginError: nobody offers it; the message suggests near names and names a broken plugin that may be why.
        """
        offer = self._offers.get((kind, name))
        if offer is None:
            raise PluginError(self.why_missing(kind, name))
        entry: Entry = offer.item
        return entry

    def provider_of(self, kind: str, name: str) -> PluginRecord:
        """The plugin that offers ``name``; raises PluginError like ``find``."""
        self.find(kind, name)
        return self._offers[kind, name].record

    def is_built_in(self, kind: str, name: str) -> bool:
        """Whether the core itself offers it."""
        return self.provider_of(kind, name).distribution == CORE

    def is_broken(self, kind: str, name: str) -> bool:
        """Whether ``name`` is missing because of a broken or clashing plugin rather than a wrong name."""
        return (kind, name) in self._clashes or any(_may_offer(record, name) for record in self._failed())

    def why_missing(self, kind: str, name: str) -> str:
        """One message: what is installed, what was probably meant, and which broken plugin may be the cause."""
        if (kind, name) in self._clashes:
            labels = " and ".join(self._clashes[kind, name])
            return f"{kind} '{name}' is offered by {labels}; uninstall one of them"
        found = sorted(known for of_kind, known in self._offers if of_kind == kind)
        message = f"no {kind} '{name}' is installed (found: {', '.join(found) or 'none'})."
        if near := difflib.get_close_matches(name, found, n=1):
            message += f" Did you mean '{near[0]}'?"
        for record in self._failed():
            if _may_offer(record, name):
                return f"{message} Plugin {record.label} may offer it but is {record.status}: {record.reasons[0]}"
        if not near:
            message += f" Install the plugin that offers it, such as: pip install vlrun-{name}"
        return message

    def offers(self) -> Iterator[tuple[PluginRecord, str, Any]]:
        """(plugin, kind, declaration) of all that can be used."""
        for (kind, _), offer in self._offers.items():
            yield offer.record, kind, offer.item

    def feature_formats(self) -> dict[str, FeatureFormat]:
        return self._by_name("feature format")

    def weight_formats(self) -> dict[str, WeightFormat]:
        return self._by_name("weight format")

    def submissions(self) -> dict[str, SubmissionFormat]:
        return self._by_name("submission")

    def demo_providers(self) -> list[DemoProvider]:
        """The embedded demo data; importing it may need more than listing it."""
        return [entry.make_provider() for entry in self._by_name("demo data").values()]

    def commands(self) -> list[Command]:
        """The verbs of ``runner``: first the core's, in their order, then those of plugins."""
        return [item for _, kind, item in self.offers() if kind == "command"]

    def _by_name(self, kind: str) -> dict[str, Any]:
        return {name: offer.item for (of_kind, name), offer in sorted(self._offers.items()) if of_kind == kind}

    def _failed(self) -> list[PluginRecord]:
        return [record for record in self.records if record.status in ("broken", "incompatible")]

    def _add(self, kind: str, offer: _Offer) -> None:
        key = (kind, offer.item.name)
        rivals = self._clashes.get(key)
        known = self._offers.get(key)
        if rivals is None and known is None:
            self._offers[key] = offer
            offer.record.offers.setdefault(kind, []).append(offer.item.name)
        elif known is not None and known.record.distribution == CORE:
            offer.record.fail("clash", f"{kind} '{offer.item.name}' is a built-in name; choose another")
        else:
            self._refuse(key, offer, known)

    def _refuse(self, key: tuple[str, str], offer: _Offer, known: _Offer | None) -> None:
        kind, name = key
        if known is not None:  # neither wins: which one came first must not decide what a YAML means
            del self._offers[key]
            known.record.offers[kind].remove(name)
            known.record.fail("clash", f"{kind} '{name}' is also offered by {offer.record.label}")
            self._clashes[key] = [known.record.label]
        offer.record.fail("clash", f"{kind} '{name}' is also offered by {self._clashes[key][0]}")
        self._clashes[key].append(offer.record.label)


def create_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Loads every plugin, each in its own guard: one that fails is recorded with the reason, the others work."""
    plugins = Plugins()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    found = entry_points(group=GROUP) if points is None else points
    for point in _distinct(found):
        record = _record_of(point)
        plugins.records.append(record)
        if record.status == "ok":
            _load(manager, plugins, point, record)
    return plugins


def _distinct(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Each entry point once, the core's own first; the same distribution can be found twice on sys.path."""
    by_key = {(point.dist.name if point.dist else "", point.name, point.value): point for point in points}
    return [by_key[key] for key in sorted(by_key, key=lambda key: (key[0] != CORE, *key))]


def _record_of(point: EntryPoint) -> PluginRecord:
    from importlib.metadata import version

    from packaging.specifiers import (
        InvalidSpecifier,
        SpecifierSet,
    )  # packaging.requirements would double what this costs at start-up

    if point.dist is None:
        return PluginRecord(point.name, "(no distribution)", "")
    record = PluginRecord(point.name, point.dist.name, point.dist.version)
    if point.dist.name == CORE:
        return record  # what it says of itself is how it refuses a platform
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
    known: Sequence[str] = list(HOOKS.values())
    names = [name for name in dir(error.plugin) if name.startswith(f"{GROUP}_") and name not in known]
    hints = []
    for name in names:
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"there is no hook '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))
    return "; ".join(hints) or str(error)


def _may_offer(record: PluginRecord, name: str) -> bool:
    """A failed plugin offers nothing, so its own name is the only hint at what it would have offered."""
    plain = name.replace("_", "-").lower()
    words = {record.name.replace("_", "-").lower(), record.distribution.lower().removeprefix(f"{GROUP}-")}
    return any(plain.startswith(word) or word.startswith(plain) for word in words if word)
