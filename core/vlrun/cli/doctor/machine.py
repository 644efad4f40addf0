"""What ``runner doctor`` looks at: a record of this machine and its Python, and how the record is filled in."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType

from vlrun.cpus import usable_cpus

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's loader workers put their batches
_NVIDIA = Path("/proc/driver/nvidia")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"


@dataclass(frozen=True)
class Mount:
    """One mounted file system: where, of which type, and what of."""

    path: str
    kind: str
    source: str


@dataclass(frozen=True)
class Space:
    """A folder with the bytes of its file system, all and free ones."""

    path: Path
    total: int
    free: int
    is_writable: bool = True


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use; ``capability`` is that of CUDA."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Torch:
    """The torch that is installed.

    Attributes:
        cuda, hip: versions that it is built for; empty if it is not.
        architectures: of the GPUs that it has code for, such as ``sm_90`` and ``compute_120``.
        has_mps: whether Apple's GPU can be used.
        problem: why no GPU can be used, in torch's words.
    """

    version: str
    cuda: str = ""
    hip: str = ""
    gpus: tuple[Gpu, ...] = ()
    architectures: tuple[str, ...] = ()
    has_mps: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Distribution:
    """An installed package, its requirements, and the folder it is in."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine and its Python.

    Attributes:
        distributions: of each name all that are on the path, the one that is imported first.
        torch: None where it cannot be imported, ``torch_problem`` says why.
        nvidia_cards: NVIDIA's GPUs that are in the machine, whether or not anything can use them.
        nvidia_driver: its version; empty without one.
        visible_gpus: CUDA_VISIBLE_DEVICES; None where it is not set.
        cores, cpus: CPUs of the machine, and those that this process may use.
        cpu_flags: what the CPU can do; empty where the system does not tell.
        shared_memory: None where the system has none of the kind.
        temporary: None where no folder can be written to.
        open_files: how many files a process may have open, and how many it may ask for; None without a limit.
    """

    python: str
    system: str
    distributions: Mapping[str, tuple[Distribution, ...]] = field(default_factory=lambda: MappingProxyType({}))
    torch: Torch | None = None
    torch_problem: str = ""
    nvidia_cards: tuple[str, ...] = ()
    nvidia_driver: str = ""
    visible_gpus: str | None = None
    cores: int = 1
    cpus: int = 1
    cpu_flags: frozenset[str] = frozenset()
    mounts: tuple[Mount, ...] = ()
    shared_memory: Space | None = None
    temporary: Space | None = None
    open_files: tuple[int, int] | None = None

    def version(self, name: str) -> str:
        """The version of a package that is imported; empty if it is not installed."""
        found = self.distributions.get(name)
        return found[0].version if found else ""

    def mount_of(self, path: Path) -> Mount | None:
        """The file system that a path is on, or would be on; None where that is not known."""
        real = os.path.realpath(path)
        under = [mount for mount in self.mounts if mount.path == "/" or f"{real}/".startswith(f"{mount.path}/")]
        # of two on one place, the later one hides the earlier
        return max(enumerate(under), key=lambda item: (len(item[1].path), item[0]))[1] if under else None


def read_machine() -> Machine:
    """The machine that this process is on; imports torch."""
    torch, problem = _read_torch()
    shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    try:
        temporary = space_of(Path(tempfile.gettempdir()))
    except FileNotFoundError:
        temporary = None
    return Machine(
        python=platform.python_version(),
        system=platform.platform(),
        distributions=_read_distributions(),
        torch=torch,
        torch_problem=problem,
        nvidia_cards=tuple(_nvidia_cards()),
        nvidia_driver=driver_version(_read(_NVIDIA / "version")),
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=os.cpu_count() or 1,
        cpus=usable_cpus(),
        cpu_flags=cpu_flags(_read(Path("/proc/cpuinfo"))),
        mounts=parse_mounts(_read(Path("/proc/self/mountinfo"))),
        shared_memory=space_of(shared) if shared else None,
        temporary=temporary,
        open_files=_open_files(),
    )


def space_of(path: Path) -> Space:
    """The space under a folder; of one that is not there yet, that of the nearest folder above it."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
    usage = shutil.disk_usage(existing)
    return Space(existing, usage.total, usage.free, os.access(existing, os.W_OK))


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The file systems in a ``/proc/PID/mountinfo``."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        place, system = before.split(" "), after.split(" ")
        if dash and len(place) > 4 and len(system) > 1:
            mounts.append(Mount(_unescaped(place[4]), system[0], _unescaped(system[1])))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    """Blanks and the like are written there as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def driver_version(text: str) -> str:
    """The version in NVIDIA's ``/proc/driver/nvidia/version``, such as ``580.65.06``; empty if there is none."""
    match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", text)
    return match[1] if match else ""


def cpu_flags(text: str) -> frozenset[str]:
    """What the first CPU of a ``/proc/cpuinfo`` can do."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _nvidia_cards() -> Iterator[str]:
    """By the driver, which knows the names; without it by the bus. Containers may show one and not the other."""
    named = [_read(file) for file in sorted(_NVIDIA.glob("gpus/*/information"))]
    if named:
        for text in named:
            model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
            yield model[1].strip() if model else "an NVIDIA GPU"
        return
    for device in sorted(_PCI.glob("*")):
        is_nvidia = _read(device / "vendor").strip() == _NVIDIA_VENDOR
        if is_nvidia and _read(device / "class").startswith(_DISPLAY_CLASS):
            yield f"an NVIDIA GPU ({device.name})"


def _read_torch() -> tuple[Torch | None, str]:
    try:
        import torch
    except (Exception, SystemExit) as error:  # its libraries may be missing or not fit
        return None, f"{type(error).__name__}: {error}"
    problem, gpus, architectures = "", [], []
    if torch.cuda.is_available():
        architectures = torch.cuda.get_arch_list()
        gpus = [
            Gpu(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number))
            for number in range(torch.cuda.device_count())
        ]
    elif torch.version.cuda or torch.version.hip:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            problem = str(error).strip().split("\n")[0]
    return Torch(
        torch.__version__,
        torch.version.cuda or "",
        torch.version.hip or "",
        tuple(gpus),
        tuple(architectures),
        torch.backends.mps.is_available(),
        problem,
    ), ""


def _read_distributions() -> dict[str, tuple[Distribution, ...]]:
    from packaging.utils import canonicalize_name

    found: dict[str, list[Distribution]] = {}
    for each in distributions():
        name = each.metadata["Name"]
        if not name:
            continue  # a folder that an interrupted uninstall has left
        folder = str(Path(str(each.locate_file(""))).resolve())
        known = found.setdefault(canonicalize_name(name), [])
        if folder not in [other.folder for other in known]:
            known.append(Distribution(name, each.version, tuple(each.requires or ()), folder))
    return {name: tuple(each) for name, each in found.items()}


def _open_files() -> tuple[int, int] | None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else (soft, hard)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
