"""Unpacking archives, hostile ones above all: nothing leaves the folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from vlrun import DataError
from vlrun.data.archives import unpack


def make_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_zip_and_tar_are_unpacked(tmp_path: Path) -> None:
    first = make_zip(tmp_path / "a.zip", ("deep/er/a.json", b"[1]"), ("b.json", b"[2]"))
    second = make_tar(tmp_path / "b.tar.gz", (tarfile.TarInfo("./deep/c.json"), b"[3]"))
    out = tmp_path / "out"
    assert sorted(path.name for path in unpack(first, out)) == ["a.json", "b.json"]
    unpack(second, out)
    assert everything_below(out) == ["b.json", "deep/c.json", "deep/er/a.json"]
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


OUTSIDE = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:/evil", "C:\\evil"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_zip_that_leaves_the_folder_is_refused_whole(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", ("good", b"x"), (name, b"evil"))
    with pytest.raises(DataError, match=r"outside the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "in/out")
    assert everything_below(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_tar_that_leaves_the_folder_is_refused_whole(tmp_path: Path, name: str) -> None:
    archive = make_tar(tmp_path / "a.tgz", (tarfile.TarInfo("good"), b"x"), (tarfile.TarInfo(name), b"evil"))
    with pytest.raises(DataError, match=r"outside the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "in/out")
    assert everything_below(tmp_path) == ["a.tgz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tgz", (tar_link("link", "/etc", kind), b""), (tarfile.TarInfo("link/x"), b"evil"))
    with pytest.raises(DataError, match="a link or a device"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == ["a.tgz"]


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = make_zip(tmp_path / "a.zip", (link, b"/etc"))
    with pytest.raises(DataError, match="a link or a device"):
        unpack(archive, tmp_path / "out")


def test_a_link_that_lies_in_the_folder_already_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/deep").symlink_to(tmp_path / "elsewhere")
    archive = make_zip(tmp_path / "a.zip", ("deep/evil", b"x"))
    with pytest.raises(DataError, match="through a link"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path / "elsewhere") == []


def test_a_name_that_comes_twice_or_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    twice = make_tar(tmp_path / "a.tgz", (tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("./a"), b"2"))
    with pytest.raises(DataError, match="there twice"):
        unpack(twice, tmp_path / "out")
    both = make_zip(tmp_path / "b.zip", ("a", b"1"), ("a/b", b"2"))
    with pytest.raises(DataError, match="a file and a folder"):
        unpack(both, tmp_path / "out")


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "bomb.zip", ("zeros", bytes(10**7)))
    assert archive.stat().st_size < 10**5
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**6})())
    with pytest.raises(DataError, match="10,000,000 bytes"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == ["bomb.zip"]


def test_a_member_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", ("zeros", bytes(10**6)))
    content = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # uncompressed size, in both headers
        place = content.index(signature) + at
        content[place : place + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.95])
def test_a_damaged_archive_is_one_line(tmp_path: Path, name: str, keep: float) -> None:
    content = os.urandom(100_000)
    if name.endswith(".zip"):
        make_zip(tmp_path / name, ("a", content))
    else:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            info = tarfile.TarInfo("a")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(content) * keep)])
    with pytest.raises(DataError) as caught:
        unpack(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == [name]


def test_an_encrypted_zip_is_one_line(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", ("secret", b"x" * 100))
    content = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + at] |= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError, match="encrypted"):
        unpack(archive, tmp_path / "out")
