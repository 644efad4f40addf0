"""What ``runner doctor`` finds on machines that have something wrong with them, each as a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlrun.cli.doctor import machine as reading
from vlrun.cli.doctor.findings import Finding, shown
from vlrun.cli.doctor.machine import (
    Distribution,
    Gpu,
    Machine,
    Mount,
    Space,
    Torch,
    cpu_flags,
    driver_version,
    parse_mounts,
    read_machine,
    space_of,
)
from vlrun.cli.doctor.machine_checks import (
    check_cpus,
    check_open_files,
    check_shared_memory,
    check_space,
    check_store_place,
    check_temporary,
    check_torch,
    has_code_for,
    is_network,
)
from vlrun.cli.doctor.version_checks import KNOWN_BAD, check_packages, check_python, known_bad

GIB = 2**30
MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /data rw,relatime shared:1 - nfs4 filer:/export rw,vers=4.2
41 27 0:41 / /data/fast rw - xfs /dev/nvme0n1 rw
42 27 0:42 / /my\\040shares rw - cifs //box/all\\040of\\040it rw
43 27 0:43 / /database rw - btrfs /dev/sdb rw
44 27 0:44 / /data/fast rw - fuse.sshfs me@host:/ rw
"""
H200, PASCAL = Gpu("NVIDIA H200", (9, 0)), Gpu("Tesla P100", (6, 0))
CUDA = Torch("2.9.0+cu128", cuda="12.8", gpus=(H200,), architectures=("sm_75", "sm_80", "sm_90", "sm_120"))
GPU_BOX = Machine("3.11.0", "Linux", torch=CUDA, nvidia_cards=("NVIDIA H200",), nvidia_driver="570.86.15")
CPU_BOX = Machine("3.11.0", "Linux", torch=Torch("2.9.0+cpu"))


def only(findings: Any) -> Finding:
    (finding,) = findings
    return finding


def test_a_mount_table_is_read_with_blanks_and_what_hides_what() -> None:
    mounts = parse_mounts(MOUNTS)
    machine = replace(CPU_BOX, mounts=mounts)

    def kind(path: str) -> str:
        mount = machine.mount_of(Path(path))
        assert mount is not None
        return mount.kind

    assert mounts[4] == Mount("/my shares", "cifs", "//box/all of it")
    assert [kind(path) for path in ("/data/x", "/database/x", "/data", "/data/fast/y", "/home")] == [
        "nfs4",
        "btrfs",
        "nfs4",
        "fuse.sshfs",
        "ext4",
    ]
    assert CPU_BOX.mount_of(Path("/data")) is None
    assert parse_mounts("") == parse_mounts("a b - c") == ()


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "ceph", "9p", "fuse.sshfs", "fuse.s3"]
)
def test_a_store_on_a_network_file_system_is_found_with_what_to_copy(kind: str) -> None:
    machine = replace(
        CPU_BOX,
        mounts=(Mount("/", "ext4", "/dev/vda"), Mount("/mnt", kind, "filer:/export")),
        temporary=Space(Path("/tmp"), GIB, GIB),
    )
    finding = only(check_store_place(machine, Path("/mnt/coco")))
    assert finding.level == "warning"
    assert f"{kind} filer:/export at /mnt" in finding.what
    assert "features.stage=/tmp," in finding.remedy
    assert "VLRUN_STAGE=/tmp " in finding.remedy
    assert not list(check_store_place(machine, Path("/home/coco")))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs"])
def test_local_file_systems_are_fine(kind: str) -> None:
    assert not is_network(kind)


def test_a_link_does_not_hide_where_a_store_is(tmp_path: Path) -> None:
    (tmp_path / "nfs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nfs")
    machine = replace(CPU_BOX, mounts=(Mount("/", "ext4", ""), Mount(str((tmp_path / "nfs").resolve()), "nfs", "f:/")))
    assert only(check_store_place(machine, tmp_path / "link" / "store")).level == "warning"


def test_a_cpu_build_beside_a_gpu_is_found_with_the_newest_cuda_that_the_driver_takes() -> None:
    machine = replace(CPU_BOX, nvidia_cards=("NVIDIA H200",), nvidia_driver="570.86.15")
    finding = only(check_torch(machine))
    assert finding.level == "warning"
    assert "built for CPUs alone, and this machine has NVIDIA H200" in finding.what
    assert "driver 570.86.15 takes builds for CUDA up to 12.x" in finding.remedy
    assert "up to" not in only(check_torch(replace(machine, nvidia_driver=""))).remedy
    assert only(check_torch(CPU_BOX)).level == "ok"


@pytest.mark.parametrize(
    ("driver", "cuda", "said"),
    [
        ("", "12.8", "no driver that is loaded"),
        ("470.57.02", "12.8", "needs driver 525 or newer; this machine has 470.57.02"),
        ("570.86.15", "13.0", "needs driver 580 or newer; this machine has 570.86.15"),
        ("570.86.15", "12.8", "cannot be used: CUDA unknown error"),
        ("570.86.15", "", "is built for AMD"),
    ],
)
def test_a_gpu_build_that_cannot_use_the_gpu_says_why(driver: str, cuda: str, said: str) -> None:
    torch = Torch("2.9.0", cuda=cuda, hip="" if cuda else "6.4", problem="CUDA unknown error")
    finding = only(check_torch(replace(GPU_BOX, torch=torch, nvidia_driver=driver)))
    assert finding.level == "error"
    assert said in finding.what
    assert finding.remedy


def test_a_gpu_build_without_a_gpu_and_hidden_gpus_are_notes() -> None:
    torch = replace(CUDA, gpus=(), problem="No CUDA GPUs are available")
    found = only(check_torch(replace(GPU_BOX, torch=torch, nvidia_cards=())))
    assert (found.level, "finds none (No CUDA GPUs are available)" in found.what) == ("note", True)
    found = only(check_torch(replace(GPU_BOX, torch=torch, visible_gpus="")))
    assert (found.level, "CUDA_VISIBLE_DEVICES= hides NVIDIA H200" in found.what) == ("note", True)
    fine, hidden = check_torch(replace(GPU_BOX, nvidia_cards=("NVIDIA H200",) * 4, visible_gpus="2"))
    assert (fine.level, hidden.level, "hides 3 more" in hidden.what) == ("ok", "note", True)


def test_more_processes_than_gpus_are_an_error() -> None:
    assert [finding.level for finding in check_torch(GPU_BOX, processes=1)] == ["ok"]
    _, finding = check_torch(GPU_BOX, processes=2)
    assert finding.level == "error"
    assert "2 processes are asked for and there are 1 GPUs" in finding.what


@pytest.mark.parametrize(
    ("architectures", "capability", "fits"),
    [
        (("sm_80", "sm_90"), (8, 6), True),  # of one generation, and not newer
        (("sm_86", "sm_90"), (8, 0), False),
        (("sm_75", "sm_80"), (6, 0), False),
        (("sm_90", "sm_100"), (12, 0), False),
        (("sm_90", "compute_90"), (12, 0), True),  # translated when it is loaded
        (("sm_90a",), (9, 0), True),
        (("sm_100f", "sm_120"), (10, 3), True),
        (("gfx942",), (9, 4), False),
    ],
)
def test_a_build_has_code_for_a_gpu_or_not(
    architectures: tuple[str, ...], capability: tuple[int, int], fits: bool
) -> None:
    assert has_code_for(architectures, capability) is fits


def test_an_old_gpu_has_no_code_and_no_fast_bf16() -> None:
    machine = replace(GPU_BOX, torch=replace(CUDA, gpus=(PASCAL,)))
    _, no_code, no_bf16 = check_torch(machine, precision="bf16")
    assert no_code.level == "error"
    assert "no code for Tesla P100 (sm_60)" in no_code.what
    assert (no_bf16.level, no_bf16.where) == ("warning", "train.precision")
    assert [finding.level for finding in check_torch(machine)] == ["ok", "error", "note"]


def test_bf16_on_a_cpu_that_lacks_it_is_slow() -> None:
    old = replace(CPU_BOX, cpu_flags=frozenset(["avx2"]))
    assert [finding.level for finding in check_torch(old, precision="bf16")] == ["ok", "warning"]
    assert [finding.level for finding in check_torch(old)] == ["ok"]
    new = replace(CPU_BOX, cpu_flags=frozenset(["avx2", "amx_bf16"]))
    assert [finding.level for finding in check_torch(new, precision="bf16")] == ["ok"]


def test_a_torch_that_cannot_be_imported_is_an_error_and_not_a_traceback() -> None:
    broken = replace(CPU_BOX, torch=None, torch_problem="ImportError: undefined symbol: iJIT_NotifyEvent")
    finding = only(check_torch(broken))
    assert finding.level == "error"
    assert "mkl<2024.1" in finding.remedy
    assert "pytorch.org" in only(check_torch(replace(broken, torch_problem="ImportError: libcudnn"))).remedy


def test_the_shared_memory_of_a_container_is_too_small() -> None:
    small = replace(CPU_BOX, shared_memory=Space(Path("/dev/shm"), 64 * 2**20, 60 * 2**20))
    finding = only(check_shared_memory(small))
    assert finding.level == "warning"
    assert "64 MiB, the default of containers" in finding.what
    assert "--shm-size" in finding.remedy
    large = replace(CPU_BOX, shared_memory=Space(Path("/dev/shm"), 8 * GIB, 7 * GIB))
    assert only(check_shared_memory(large)).level == "ok"
    assert not list(check_shared_memory(CPU_BOX))


def test_more_processes_than_cpus_are_found() -> None:
    machine = replace(CPU_BOX, cores=64, cpus=4)
    fine = only(check_cpus(machine, processes=2, workers=1))
    assert (fine.level, fine.what) == ("ok", "4 of 64 may be used")
    finding = only(check_cpus(machine, processes=2, workers=4))
    assert finding.level == "warning"
    assert "2 processes with 4 loader workers each make 10" in finding.what
    assert finding.remedy.startswith("train.workers=1,")


def test_a_low_limit_of_open_files_is_found() -> None:
    assert only(check_open_files(replace(CPU_BOX, open_files=(1024, 4096)), 4, 3)).level == "ok"
    finding = only(check_open_files(replace(CPU_BOX, open_files=(256, 4096)), 4, 3))
    assert finding.level == "warning"
    assert "ulimit -n 448" in finding.remedy
    assert "ask" in only(check_open_files(replace(CPU_BOX, open_files=(256, 256)), 4, 3)).remedy
    assert not list(check_open_files(CPU_BOX))


def test_full_and_closed_disks_are_found() -> None:
    folder = Path("/runs")
    assert check_space(Space(folder, 9 * GIB, 2 * GIB), "runs_root", 1 * GIB, "checkpoints").level == "ok"
    full = check_space(Space(folder, 9 * GIB, 2 * GIB), "runs_root", 3 * GIB, "checkpoints")
    assert (full.level, full.what) == ("error", "2.0 GiB are free, checkpoints will take 3.0")
    assert check_space(Space(folder, GIB, GIB, is_writable=False), "runs_root").level == "warning"
    assert only(check_temporary(CPU_BOX)).level == "error"
    assert not list(check_temporary(replace(CPU_BOX, temporary=Space(folder, GIB, GIB))))
    assert only(check_temporary(replace(CPU_BOX, temporary=Space(folder, GIB, 2**20)))).level == "warning"
    assert only(check_temporary(replace(CPU_BOX, temporary=Space(folder, GIB, GIB, False)))).level == "error"


def installed(**versions: str | tuple[str, ...]) -> Machine:
    """A machine with these packages; a tuple is a version and requirements."""
    found = {}
    for name, given in versions.items():
        version, *requires = (given,) if isinstance(given, str) else given
        found[name.replace("_", "-")] = (Distribution(name.replace("_", "-"), version, tuple(requires), "/site"),)
    return replace(CPU_BOX, distributions=found)


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"torch": "2.2.2", "numpy": "2.0.1"}, {"torch": "2.2.2", "numpy": "1.26.4"}),
        ({"torch": "2.4.1+cu121", "mkl": "2024.2.0"}, {"torch": "2.5.0+cu121", "mkl": "2024.2.0"}),
        ({"tensorboard": "2.20.0", "setuptools": "82.0.1"}, {"tensorboard": "2.21.0", "setuptools": "82.0.1"}),
        ({"tensorboard": "2.16.2", "protobuf": "5.29.0"}, {"tensorboard": "2.16.2"}),
    ],
)
def test_known_bad_combinations_are_found_with_where_they_were_reported(
    bad: dict[str, str], good: dict[str, str]
) -> None:
    finding = only(known_bad(installed(**bad)))
    assert finding.level == "warning"
    assert all(f"{name} {version}" in finding.where for name, version in bad.items())
    assert "https://github.com/" in finding.what
    assert "pip install" in finding.remedy
    assert not list(known_bad(installed(**good)))


def test_every_known_bad_combination_has_a_source_and_a_remedy() -> None:
    assert len(KNOWN_BAD) == 4
    assert all(bad.source.startswith("https://github.com/") and bad.remedy for bad in KNOWN_BAD)


def test_what_the_core_its_plugins_and_their_packages_need_is_checked() -> None:
    machine = installed(
        vlrun=("1.0", "torch>=2.4", "pydantic>=2.7", "windows-only; sys_platform == 'win32'", "h5py; extra == 'hdf5'"),
        vlrun_mine=("1.0", "vlrun", "absent>=3"),
        torch="2.3.1+cpu",
        pydantic=("2.11.7", "pydantic-core==2.33.2"),
        pydantic_core="2.37.2",
    )
    findings = check_packages(machine, {"vlrun-mine": "1.0"})
    assert {(finding.level, finding.where, finding.what, finding.remedy) for finding in findings} == {
        ("error", "torch", "2.3.1+cpu is installed, vlrun needs >=2.4", "pip install 'torch>=2.4'"),
        ("error", "absent", "it is not installed, vlrun-mine needs >=3", "pip install 'absent>=3'"),
        (
            "warning",
            "pydantic-core",
            "2.37.2 is installed, pydantic needs ==2.33.2",
            "pip install 'pydantic-core==2.33.2'",
        ),
    }
    fine = installed(vlrun=("1.0", "torch>=2.4"), torch=("2.9.0+cu128", "filelock"), filelock="3.1")
    assert only(check_packages(fine, {})).what == "2 packages, each as those that need it declare"


def test_a_package_that_hides_another_version_of_itself_is_found() -> None:
    machine = installed(vlrun=("1.0", "numpy"))
    copies = (Distribution("numpy", "2.1", (), "/home/me"), Distribution("numpy", "1.26", (), "/venv"))
    machine = replace(machine, distributions={**machine.distributions, "numpy": copies})
    finding = only(check_packages(machine, {}))
    assert finding.level == "warning"
    assert "2.1 in /home/me is imported and hides 1.26 in /venv" in finding.what


def test_a_python_that_is_too_old_is_an_error() -> None:
    assert only(check_python(replace(CPU_BOX, python="3.8.1"))).level == "error"
    assert only(check_python(CPU_BOX)).level == "ok"


def test_the_driver_and_the_cpu_are_read_as_linux_shows_them() -> None:
    closed = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 12.3"
    )
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)"
    assert [driver_version(text) for text in (closed, opened, "")] == ["535.129.03", "580.65.06", ""]
    assert cpu_flags("processor\t: 0\nflags\t\t: fpu avx2\n\nflags\t\t: other\n") == {"fpu", "avx2"}
    assert cpu_flags("Features\t: asimd bf16\n") == {"asimd", "bf16"}
    assert cpu_flags("") == frozenset()


def test_cards_are_found_by_the_driver_or_else_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_NVIDIA", tmp_path / "driver")
    monkeypatch.setattr(reading, "_PCI", tmp_path / "bus")
    for place, vendor, kind in (
        ("01:00.0", "0x10de", "0x030200"),
        ("01:00.1", "0x10de", "0x040300"),
        ("02", "0x8086", "0x03"),
    ):
        device = tmp_path / "bus" / place
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert read_machine().nvidia_cards == ("an NVIDIA GPU (01:00.0)",)  # its sound chip is none
    (tmp_path / "driver" / "gpus" / "0000:01").mkdir(parents=True)
    (tmp_path / "driver" / "gpus" / "0000:01" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    (tmp_path / "driver" / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu\n")
    machine = read_machine()
    assert (machine.nvidia_cards, machine.nvidia_driver) == (("NVIDIA H200",), "535.129.03")
    assert machine.torch is not None
    assert machine.version("torch") == machine.torch.version
    assert machine.cpus >= 1


def test_the_space_under_a_folder_that_is_not_there_is_that_above(tmp_path: Path) -> None:
    assert space_of(tmp_path / "a" / "b").path == tmp_path
    assert space_of(tmp_path).free > 0


def test_findings_are_shown_in_order_with_where_remedy_and_a_count() -> None:
    findings = [
        Finding("ok", "cpus", "2"),
        Finding("error", "data", "missing\nmuch", "/data", "get it\nand build it"),
        Finding("warning", "torch", "odd"),
    ]
    assert shown(findings) == [
        "ok       cpus  2",
        "error    data  /data: missing",
        "               much",
        "               -> get it",
        "               -> and build it",
        "warning  torch odd",
        "found: 1 error, 1 warning",
    ]
    assert shown(findings[:1])[-1] == "no known problems"
