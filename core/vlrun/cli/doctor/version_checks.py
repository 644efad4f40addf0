"""Whether the installed packages fit each other: by what they declare, and by what is known not to work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vlrun.cli.doctor.findings import Finding
from vlrun.cli.doctor.machine import Machine

CORE = "vlrun"


@dataclass(frozen=True)
class KnownBad:
    """Versions that do not work together although nothing that they declare says so.

    Attributes:
        versions: package -> its versions; all of them together are bad.
        source: where it was reported.
    """

    versions: Mapping[str, str]
    what: str
    remedy: str
    source: str


KNOWN_BAD = (
    KnownBad(
        {"torch": "<2.3", "numpy": ">=2"},
        "this torch was built for numpy 1: 'Numpy is not available' when a batch is made",
        "pip install -U 'torch>=2.4', or pip install 'numpy<2'",
        "https://github.com/pytorch/pytorch/issues/107302",
    ),
    KnownBad(
        {"torch": "<2.5", "mkl": ">=2024.1"},
        "importing torch from conda ends in 'undefined symbol: iJIT_NotifyEvent'",
        "pip install -U 'torch>=2.5', or conda install 'mkl<2024.1'",
        "https://github.com/pytorch/pytorch/issues/123097",
    ),
    KnownBad(
        {"tensorboard": "<2.21", "setuptools": ">=82"},
        "the command `tensorboard` ends in \"No module named 'pkg_resources'\" (curves are written all the same)",
        "pip install -U 'tensorboard>=2.21', or pip install 'setuptools<82'",
        "https://github.com/tensorflow/tensorboard/issues/7107",
    ),
    KnownBad(
        {"tensorboard": "<2.17", "protobuf": ">=5.26"},
        "pages of the command `tensorboard` fail with 'including_default_value_fields' (curves are written all the "
        "same)",
        "pip install -U 'tensorboard>=2.18', or pip install 'protobuf<5'",
        "https://github.com/tensorflow/tensorboard/issues/6808",
    ),
)


def check_python(machine: Machine) -> Iterator[Finding]:
    """The version of Python against what the core asks for."""
    try:
        needed = str(metadata(CORE).json.get("requires_python", ""))
    except PackageNotFoundError:
        needed = ""
    if _is_in(machine.python, needed):
        yield Finding("ok", "python", f"{machine.python}, {machine.system}")
    else:
        yield Finding(
            "error", "python", f"{machine.python} is too old; vlrun needs {needed}", remedy="make an environment anew"
        )


def check_packages(machine: Machine, plugins: Mapping[str, str]) -> list[Finding]:
    """All packages that the core and the plugins need, those that these need in turn, and known bad combinations.

    Args:
        plugins: the distributions of plugins and their versions.
    """
    findings = [*_unmet(machine, plugins), *_twice(machine), *known_bad(machine)]
    if not findings:
        names = [name for name in _needed(machine, [CORE, *plugins]) if name != CORE]
        findings = [Finding("ok", "packages", f"{len(names)} packages, each as those that need it declare")]
    return findings


def needed_packages(machine: Machine) -> list[str]:
    """Names of the packages that the core itself needs on this platform."""
    return sorted(
        {canonicalize_name(need.name) for who, need in _requirements(machine, [CORE]) if who == CORE} - {CORE}
    )


def known_bad(machine: Machine) -> Iterator[Finding]:
    """The combinations of ``KNOWN_BAD`` that are installed."""
    for bad in KNOWN_BAD:
        installed = {name: machine.version(name) for name in bad.versions}
        if all(version and _is_in(version, bad.versions[name]) for name, version in installed.items()):
            together = " with ".join(f"{name} {version}" for name, version in installed.items())
            yield Finding("warning", "packages", f"{bad.what} ({bad.source})", together, bad.remedy)


def _unmet(machine: Machine, plugins: Mapping[str, str]) -> Iterator[Finding]:
    ours = {canonicalize_name(name) for name in (CORE, *plugins)}
    told = set()
    for who, requirement in _requirements(machine, [CORE, *plugins]):
        name = canonicalize_name(requirement.name)
        version = machine.version(name)
        if (version and _is_in(version, str(requirement.specifier))) or (who, name) in told:
            continue
        told.add((who, name))
        is_ours = canonicalize_name(who) in ours
        state = f"{version} is installed" if version else "it is not installed"
        yield Finding(
            "error" if is_ours or not version else "warning",
            "packages",
            f"{state}, {who} needs {requirement.specifier or 'it'}",
            requirement.name,
            f"pip install '{requirement.name}{requirement.specifier}'",
        )


def _twice(machine: Machine) -> Iterator[Finding]:
    """Only packages that matter here: a shared machine has others twice, too."""
    needed = _needed(machine, [CORE, *(name for name in machine.distributions if name.startswith(f"{CORE}-"))])
    for name in needed:
        copies = machine.distributions.get(name, ())
        if len({copy.version for copy in copies}) > 1:
            first, *hidden = copies
            others = ", ".join(f"{copy.version} in {copy.folder}" for copy in hidden)
            yield Finding(
                "warning",
                "packages",
                f"installed twice: {first.version} in {first.folder} is imported and hides {others}",
                first.name,
                f"pip uninstall {first.name} (again, until none is left), then install it once",
            )


def _requirements(machine: Machine, roots: list[str]) -> Iterator[tuple[str, Requirement]]:
    """(who needs it, what) for the roots and all that they bring along, on this platform and without extras."""
    waiting, seen = list(roots), set()
    while waiting:
        name = canonicalize_name(waiting.pop(0))
        copies = machine.distributions.get(name)
        if name in seen or not copies:
            continue
        seen.add(name)
        for line in copies[0].requires:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue  # of an old package; pip has its own words for it
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield copies[0].name, requirement
                waiting.append(requirement.name)


def _needed(machine: Machine, roots: list[str]) -> list[str]:
    return list(dict.fromkeys(canonicalize_name(each.name) for _, each in _requirements(machine, roots)))


def _is_in(version: str, specifiers: str) -> bool:
    """Whether a version is one of those; one that is no version, as own builds have, is taken to be."""
    try:
        return SpecifierSet(specifiers).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True
