"""What a machine shows to be wrong before any experiment: torch and GPUs, memory that is shared, CPUs, files, disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlrun.cli.doctor.findings import Finding
from vlrun.cli.doctor.machine import Gpu, Machine, Space, Torch
from vlrun.config.roots import STAGE_VARIABLE

CONTAINER_SHARED_MEMORY = 64 * 2**20
"""What docker and Kubernetes give a container that asks for no other size."""

MOST_FILES_PER_BATCH = 16
"""torch keeps a file open for each tensor of a batch that a worker has handed over; an encoding has six at most."""

FILES_BESIDE = 256
"""Open files that a process has anyway: modules, logs, stores, sockets."""

_BF16_CAPABILITY = (8, 0)
_GIB = 2**30
_LEAST_TEMPORARY = 100 * 2**20  # sockets of loader workers and a file that is unpacked

# Oldest drivers by major version of CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}

_GET_TORCH = "https://pytorch.org/get-started/locally/ has the command for each CUDA version"

NETWORK_KINDS = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fhgfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "smbfs",
        "wekafs",
    ]
)
_LOCAL_FUSE = frozenset(["fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.ntfs-3g", "fuse.lxcfs"])


def check_torch(machine: Machine, processes: int | None = None, precision: str = "fp32") -> Iterator[Finding]:
    """torch, and whether it can use the GPUs of the machine.

    Args:
        processes: how many a run will have; each needs a GPU where there is any. None: as many as there are.
        precision: ``train.precision`` of an experiment.
    """
    torch = machine.torch
    if torch is None:
        yield Finding(
            "error", "torch", f"it cannot be imported: {machine.torch_problem}", remedy=_torch_remedy(machine)
        )
        return
    cards = ", ".join(machine.nvidia_cards)
    if torch.gpus:
        yield from _usable_gpus(machine, torch, processes, precision)
        return
    if torch.has_mps:
        yield Finding("ok", "torch", f"{torch.version} with Apple's GPU, for runs of one process")
        return
    if machine.visible_gpus is not None and cards and torch.cuda:
        yield Finding(
            "note", "torch", f"{torch.version} on the CPU: CUDA_VISIBLE_DEVICES={machine.visible_gpus} hides {cards}"
        )
    elif cards and not (torch.cuda or torch.hip):
        yield Finding(
            "warning",
            "torch",
            f"{torch.version} is built for CPUs alone, and this machine has {cards}: runs will be on the CPU",
            remedy=f"install a CUDA build: {_GET_TORCH}{_newest_cuda(machine)}",
        )
    elif cards:
        yield _unusable_gpus(machine, torch, cards)
    elif torch.cuda or torch.hip:
        why = f" ({torch.problem})" if torch.problem else ""
        yield Finding(
            "note", "torch", f"{torch.version} is built for GPUs and finds none{why}: runs will be on the CPU"
        )
    else:
        yield Finding("ok", "torch", f"{torch.version} on the CPU")
    yield from _cpu_precision(machine, precision)


def _torch_remedy(machine: Machine) -> str:
    if "iJIT_NotifyEvent" in machine.torch_problem:
        return "conda install 'mkl<2024.1', or install torch with pip"
    return f"install it anew: {_GET_TORCH}"


def _newest_cuda(machine: Machine) -> str:
    """Which CUDA the driver takes, if that is known."""
    driver = _major(machine.nvidia_driver)
    fitting = [cuda for cuda, oldest in _OLDEST_DRIVER.items() if driver is not None and driver >= oldest]
    return f"; driver {machine.nvidia_driver} takes builds for CUDA up to {max(fitting)}.x" if fitting else ""


def _unusable_gpus(machine: Machine, torch: Torch, cards: str) -> Finding:
    """Why a torch that is built for GPUs cannot use those that are there."""
    driver, cuda = _major(machine.nvidia_driver), _major(torch.cuda)
    built = f"{torch.version} is built for CUDA {torch.cuda}" if torch.cuda else f"{torch.version} is built for AMD"
    if torch.hip:
        return Finding(
            "error", "torch", f"{built}, and this machine has {cards}", remedy=f"install another: {_GET_TORCH}"
        )
    if driver is None:
        return Finding(
            "error",
            "torch",
            f"{built}; this machine has {cards} and no driver that is loaded",
            remedy="install NVIDIA's driver; in a container, start it with its GPUs (docker: --gpus all)",
        )
    oldest = _OLDEST_DRIVER.get(cuda or 0)
    if oldest is not None and driver < oldest:
        return Finding(
            "error",
            "torch",
            f"{built}, which needs driver {oldest} or newer; this machine has {machine.nvidia_driver}",
            remedy=f"update the driver, or install an older build: {_GET_TORCH}{_newest_cuda(machine)}",
        )
    return Finding(
        "error",
        "torch",
        f"{built} and driver {machine.nvidia_driver} is there, but {cards} cannot be used: "
        f"{torch.problem or 'torch does not say why'}",
        remedy="in a container, start it with its GPUs (docker: --gpus all); else see what nvidia-smi says",
    )


def _usable_gpus(machine: Machine, torch: Torch, processes: int | None, precision: str) -> Iterator[Finding]:
    names = ", ".join(gpu.name for gpu in torch.gpus)
    built = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}"
    yield Finding("ok", "torch", f"{torch.version} ({built}) with {names}")
    if machine.visible_gpus is not None and len(torch.gpus) < len(machine.nvidia_cards):
        hidden = len(machine.nvidia_cards) - len(torch.gpus)
        yield Finding("note", "torch", f"CUDA_VISIBLE_DEVICES={machine.visible_gpus} hides {hidden} more")
    if processes is not None and processes > len(torch.gpus):
        yield Finding(
            "error",
            "torch",
            f"{processes} processes are asked for and there are {len(torch.gpus)} GPUs",
            "--nproc",
            "lower it, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU",
        )
    for gpu in torch.gpus if torch.cuda else ():
        if torch.architectures and not has_code_for(torch.architectures, gpu.capability):
            yield Finding(
                "error",
                "torch",
                f"{torch.version} has no code for {gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]}), only for "
                f"{', '.join(torch.architectures)}: 'no kernel image is available'",
                remedy=f"install another build: {_GET_TORCH}",
            )
    slow = [gpu for gpu in torch.gpus if torch.cuda and gpu.capability < _BF16_CAPABILITY]
    if slow:
        wanted = precision == "bf16"
        yield Finding(
            "warning" if wanted else "note",
            "precision",
            f"{_listed(slow)} computes bf16 by way of float32, which is slower than fp32",
            "train.precision" if wanted else "",
            "set train.precision=fp16, or fp32",
        )


def _cpu_precision(machine: Machine, precision: str) -> Iterator[Finding]:
    if precision == "bf16" and machine.cpu_flags and not machine.cpu_flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        yield Finding(
            "warning",
            "precision",
            "this CPU computes bf16 by way of float32, which is slower than fp32",
            "train.precision",
            "set train.precision=fp32",
        )


def _listed(gpus: list[Gpu]) -> str:
    return ", ".join(dict.fromkeys(gpu.name for gpu in gpus))


def has_code_for(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether a build has code for a GPU: of the same generation and not newer, or such that it can be translated."""
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")  # sm_90a and sm_100f have more than sm_90 and sm_100
        if not digits.isdecimal() or len(digits) < 2:
            continue
        built = int(digits[:-1]), int(digits[-1])
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def check_shared_memory(machine: Machine) -> Iterator[Finding]:
    """The size of shared memory; an experiment says how much of it is needed."""
    shared = machine.shared_memory
    if shared is None:
        return
    if shared.total <= CONTAINER_SHARED_MEMORY:
        yield Finding(
            "warning",
            "shared memory",
            f"{mib(shared.total)} MiB, the default of containers: loader workers end in a bus error",
            str(shared.path),
            "docker: --shm-size 8g (or --ipc host); Kubernetes: mount an emptyDir of medium Memory there",
        )
    else:
        yield Finding(
            "ok", "shared memory", f"{mib(shared.free)} of {mib(shared.total)} MiB are free", str(shared.path)
        )


def check_cpus(machine: Machine, processes: int = 1, workers: int = 0) -> Iterator[Finding]:
    """The CPUs that may be used, against those of the machine and what a run starts."""
    allowed = (
        f"{machine.cpus} of {machine.cores} may be used" if machine.cpus < machine.cores else f"{machine.cpus} CPUs"
    )
    started = processes * (1 + workers)
    if started > machine.cpus and (workers or processes > machine.cpus):
        yield Finding(
            "warning",
            "cpus",
            f"{allowed}; {_counted(processes, 'process', 'es')} with {_counted(workers, 'loader worker')} each make "
            f"{started}",
            "train.workers, --nproc",
            f"train.workers={max(0, machine.cpus // processes - 1)}, or fewer processes",
        )
    else:
        yield Finding("ok", "cpus", allowed)


def check_open_files(machine: Machine, workers: int = 0, in_flight: int = 0) -> Iterator[Finding]:
    """How many files a process may open.

    Args:
        workers: loader processes of one process of a run.
        in_flight: batches that each of them holds.
    """
    if machine.open_files is None:
        return
    soft, hard = machine.open_files
    needed = FILES_BESIDE + workers * in_flight * MOST_FILES_PER_BATCH
    if soft < needed:
        enough = f"ulimit -n {needed}" if hard < 0 or hard >= needed else "ask whoever runs the machine for more"
        yield Finding(
            "warning",
            "open files",
            f"a process may open {soft}; with {workers} loader workers it can need {needed}",
            remedy=f"{enough} (before the run, in the same shell)",
        )
    else:
        yield Finding("ok", "open files", f"a process may open {soft:,}")


def check_temporary(machine: Machine) -> Iterator[Finding]:
    """The folder for temporary files."""
    space = machine.temporary
    if space is None or not space.is_writable:
        yield Finding(
            "error",
            "disk",
            "no folder for temporary files can be written to",
            str(space.path) if space else "",
            "set TMPDIR to one that can",
        )
    elif space.free < _LEAST_TEMPORARY:
        yield Finding(
            "warning", "disk", f"{mib(space.free)} MiB are free for temporary files", str(space.path), "set TMPDIR"
        )


def check_space(space: Space, name: str, needed: int = 0, what: str = "") -> Finding:
    """Whether a folder can be written to and has the bytes that are needed."""
    where = f"{name} {space.path}"
    free = f"{space.free / _GIB:,.1f} GiB are free"
    if needed > space.free:
        return Finding(
            "error",
            "disk",
            f"{free}, {what} will take {needed / _GIB:,.1f}",
            where,
            f"make room, or put {name} elsewhere",
        )
    if not space.is_writable:
        return Finding("warning", "disk", "it cannot be written to", where, f"put {name} elsewhere")
    wanted = f"; {what} will take {needed / _GIB:,.1f}" if needed else ""
    return Finding("ok", "disk", f"{free}{wanted}", where)


def check_store_place(machine: Machine, store: Path) -> Iterator[Finding]:
    """A store on a network file system, which maps its pages into memory slowly or not at all."""
    mount = machine.mount_of(store)
    if mount is not None and is_network(mount.kind):
        local = machine.temporary.path if machine.temporary else "FOLDER"
        yield Finding(
            "warning",
            "features",
            f"it is on a network file system ({mount.kind} {mount.source} at {mount.path}): an LMDB file is mapped "
            "into memory, which is slow there, and a lost connection ends the run with a bus error",
            str(store),
            f"features.stage={local}, or another folder on a local disk, to which runs copy it once "
            f"({STAGE_VARIABLE}={local} for all experiments)",
        )


def is_network(kind: str) -> bool:
    """Whether a type of file system is one over a network; unknown ones of FUSE are taken to be."""
    return kind in NETWORK_KINDS or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def mib(size: int) -> str:
    """Bytes in MiB."""
    return f"{size / 2**20:,.0f}"


def _counted(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number != 1 else ''}"


def _major(version: str) -> int | None:
    head = version.partition(".")[0]
    return int(head) if head.isdecimal() else None
