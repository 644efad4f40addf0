"""What a plugin declares of the files that others publish: where they are, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlrun.features.origin import UNKNOWN, FeatureOrigin
from vlrun.plugins.entries import Declaration

Kind = Literal["vocabulary", "annotations", "features", "weights"]
KINDS: tuple[Kind, ...] = ("vocabulary", "annotations", "features", "weights")
"""In the order in which they are prepared: what is quick comes first."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One published file.

    Attributes:
        name: what it is called here; an archive, by its suffix, is unpacked.
        urls: the official address, then mirrors. Empty where there is none that a program can get.
        size: in bytes; None where nobody published it. A size or a hash that was not checked has no place here.
        sha256: likewise.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith(".") or "/" in self.name:
            raise ValueError(f"name={self.name!r} is not the name of a file")
        if isinstance(self.urls, str):
            raise ValueError(f"urls={self.urls!r} is one text; write a tuple, ({self.urls!r},)")

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked."""
        return self.name.endswith(ARCHIVES)


@dataclass(frozen=True, kw_only=True)
class Download(Declaration):
    """Published files, and the command that makes something of them that an experiment needs.

    Attributes:
        name: as in ``runner data get NAME``.
        summary: what it is, in one line.
        kind: ``vocabulary``, ``annotations``, ``features`` or ``weights``.
        makes: what is made of it: the name of a dataset (annotations), or the file or folder name that experiments
            give the store, the weights or the vocabulary.
        source: SOURCE or FORMAT of the command that makes it, as ``--from`` takes it; a vocabulary is copied.
        recognised: paths by whose end the files are found in any folder, such as ``"vqa/train.json"`` or
            ``"*flickr*/test_ann.jsonl"``.
        files: what there is to get.
        page: where its owners say how to get it.
        licence: what they say of its use; empty where they say nothing.
        terms: what a user has to agree to.
        manual_steps: what only a person can do, one after the other.
        images: how many images a set of features holds, for the disk that it will take.
        features: what made a set of features, as far as its owners say; the command that imports it passes it on.
        optional: those of ``recognised`` that nobody misses.
        in_folder: whether the importer is given the folder in which a recognised file lies, for what is beside it;
            otherwise the file or folder itself.
    """

    name: str
    summary: str
    kind: Kind
    makes: str
    source: str = ""
    recognised: tuple[str, ...]
    files: tuple[RemoteFile, ...] = ()
    page: str = ""
    licence: str = ""
    terms: str = ""
    manual_steps: tuple[str, ...] = ()
    images: int | None = None
    features: FeatureOrigin = UNKNOWN
    optional: tuple[str, ...] = ()
    in_folder: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is none of {', '.join(KINDS)}")
        for attribute in ("recognised", "manual_steps", "optional"):
            if isinstance(value := getattr(self, attribute), str):
                raise ValueError(f"{attribute}={value!r} is one text; write a tuple, ({value!r},)")
        if not (self.files or self.page or self.manual_steps):
            raise ValueError(f"{self.name}: neither files nor a page nor steps say how to get it")

    @property
    def is_automatic(self) -> bool:
        """Whether a program can get all of it."""
        return bool(self.files) and not self.manual_steps and all(file.urls for file in self.files)

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where that of one is unknown."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if self.files and len(sizes) == len(self.files) else None
