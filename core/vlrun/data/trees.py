"""Recognising published files in folders as people have them, by what plugins declare of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from vlrun.data.downloading import RECORD
from vlrun.plugins.downloads import Download

DOWNLOADS_FOLDER = "downloads"
"""Where ``runner data get`` puts files, under the data root: a folder for each download."""


@dataclass(frozen=True)
class Found:
    """Files of one download in one folder.

    Attributes:
        download: what they are.
        sources: what the command is given: a folder, or files.
        files: the files or folders by which it was recognised.
        absent: recognised names of which nothing is there.
    """

    download: Download
    sources: tuple[Path, ...]
    files: tuple[Path, ...]
    absent: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the files that will be read, as far as they can be told apart."""
        return sum(_size(path) for path in self.files)

    def command(self, target: Path) -> list[str]:
        """What makes ``target`` of it, as the words after ``runner``; a vocabulary is copied, with ``cp``."""
        download, sources = self.download, [str(path) for path in self.sources]
        if download.kind == "vocabulary":
            return ["cp", *sources, str(target)]
        if download.kind == "annotations":
            return ["data", "build", download.makes, "--from", download.source, *sources, str(target)]
        verb = ["features", "build"] if download.kind == "features" else ["weights", "import"]
        made = {"extractor": download.features.extractor, "boxes": download.features.boxes}
        options = [word for name, value in made.items() if value for word in (f"--{name}", value)]
        source = ["--from", download.source] if download.source else []
        return [*verb, *source, *sources, str(target), *options]


@dataclass
class Tree:
    """A folder and all that lies in it.

    Attributes:
        of_download: the only download whose files it holds, where ``runner data get`` made it.
        unread: folders that cannot be listed.
    """

    root: Path
    of_download: str = ""
    unread: list[str] = field(default_factory=list)

    @cached_property
    def entries(self) -> dict[str, list[tuple[str, Path]]]:
        """Name -> (path from the folder above the root, path) of everything with that name."""
        found: dict[str, list[tuple[str, Path]]] = {}
        for path in self._walk():
            relative = f"{self.root.resolve().name}/{path.relative_to(self.root).as_posix()}"
            found.setdefault(path.name, []).append((relative, path))
        return found

    def _walk(self) -> Iterator[Path]:
        visited = set()

        def note(error: OSError) -> None:
            self.unread.append(f"{error.filename}: {error.strerror}")

        for folder, names, files in os.walk(self.root, followlinks=True, onerror=note):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:  # a link that leads upwards
                names.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            names[:] = sorted(name for name in names if not (name.startswith(".") or _is_downloads(Path(folder, name))))
            yield from (Path(folder, name) for name in (*names, *sorted(files)) if not name.startswith("."))

    def matches(self, pattern: str) -> list[Path]:
        """Everything whose path ends like ``pattern``."""
        last = pattern.rpartition("/")[2]
        if self.of_download:  # its files lie as the archives have them
            pattern = last
        names = [name for name in self.entries if fnmatchcase(name, last)] if set(last) & set("*?[") else [last]
        return [
            path
            for name in names
            for relative, path in self.entries.get(name, ())
            if fnmatchcase(relative, pattern) or fnmatchcase(relative, f"*/{pattern}")
        ]

    def find(self, download: Download) -> list[Found]:
        """The files of a download: of annotations one result for each folder, of others one for all."""
        if self.of_download and download.name != self.of_download:
            return []
        matches = {pattern: self.matches(pattern) for pattern in download.recognised}
        paths = list(dict.fromkeys(path for found in matches.values() for path in found))
        if not paths:
            return []
        names = {pattern.rpartition("/")[2] for pattern, found in matches.items() if found}  # one place is enough
        absent = tuple(
            pattern
            for pattern in download.recognised
            if pattern not in download.optional and pattern.rpartition("/")[2] not in names
        )
        if download.kind == "annotations":
            return [
                Found(download, (folder,), tuple(path for path in paths if path.parent == folder), absent)
                for folder in dict.fromkeys(path.parent for path in paths)
            ]
        if download.kind == "features":
            sources = [path.parent if download.in_folder else path for path in paths]
            return [Found(download, tuple(dict.fromkeys(sources)), tuple(paths), absent)]
        return [Found(download, (path,), (path,), ()) for path in paths]

    def left_over(self, taken: Iterable[Found]) -> dict[Path, list[str]]:
        """Folder -> names of the files in it that nothing was made of."""
        used = {path for found in taken for path in (*found.files, *found.sources)}
        left: dict[Path, list[str]] = {}
        for entries in self.entries.values():
            for _, path in entries:
                if not path.is_dir() and not used & {path, *path.parents}:
                    left.setdefault(path.parent, []).append(path.name)
        return left


def _is_downloads(folder: Path) -> bool:
    """Whether ``runner data get`` made it: what is in there is looked through by itself."""
    return folder.name == DOWNLOADS_FOLDER and any(folder.glob(f"*/{RECORD}"))


def trees_of(folders: Sequence[Path], data_root: Path, downloads: Mapping[str, Download]) -> list[Tree]:
    """Where to look, in this order: folders that a user names, what was downloaded, and the data root itself."""
    trees = [Tree(folder) for folder in folders]
    trees += [
        Tree(data_root / DOWNLOADS_FOLDER / name, of_download=name)
        for name in downloads
        if (data_root / DOWNLOADS_FOLDER / name / RECORD).is_file()
    ]
    if data_root.is_dir() and data_root.resolve() not in [folder.resolve() for folder in folders]:
        trees.append(Tree(data_root))
    return trees


def _size(path: Path) -> int:
    if path.is_dir():
        with os.scandir(path) as inside:
            return sum(entry.stat().st_size for entry in inside if entry.is_file())
    return path.stat().st_size
