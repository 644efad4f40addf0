"""Where RefCOCO, RefCOCO+ and RefCOCOg come from, and how large they should be (no torch, no numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SERVER = "http://bvisionweb1.cs.unc.edu/licheng/referit/data"


@dataclass(frozen=True)
class Size:
    """How many referents and expressions a published split has."""

    referents: int
    expressions: int


@dataclass(frozen=True)
class OfficialSource:
    """One way in which an official archive splits its referents.

    Attributes:
        dataset: name of the dataset.
        split_by: who made the splits: UNC, the University of Maryland, or Google.
        sizes: split -> its published size.
    """

    dataset: str
    split_by: str
    sizes: Mapping[str, Size]

    @property
    def name(self) -> str:
        """The name of the source, as in ``runner data build DATASET --from NAME``."""
        return "official-google" if self.split_by == "google" else "official"

    @property
    def refs_file(self) -> str:
        """The file in the archive that holds the referents."""
        return f"refs({self.split_by}).p"

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return f"{self.dataset}.zip"

    @property
    def obtain(self) -> str:
        """How to get the archive, for messages."""
        return f"Download {_SERVER}/{self.archive} (if that server is down, search for a mirror of it) and unpack it"


# As the papers and Licheng Yu's refer API give them. We have not counted all of them in the files, so the builder
# remarks on a difference and does not stop.
OFFICIAL_SOURCES = (
    OfficialSource(
        "refcoco",
        "unc",
        {
            "train": Size(42_404, 120_624),
            "val": Size(3_811, 10_834),
            "testA": Size(1_975, 5_657),
            "testB": Size(1_810, 5_095),
        },
    ),
    OfficialSource(
        "refcoco+",
        "unc",
        {
            "train": Size(42_278, 120_191),
            "val": Size(3_805, 10_758),
            "testA": Size(1_975, 5_726),
            "testB": Size(1_798, 4_889),
        },
    ),
    OfficialSource(
        "refcocog",
        "umd",
        {"train": Size(42_226, 80_512), "val": Size(2_573, 4_896), "test": Size(5_023, 9_602)},
    ),
    OfficialSource("refcocog", "google", {"train": Size(44_822, 85_474), "val": Size(5_000, 9_536)}),
)


def official_source(dataset: str, split_by: str) -> OfficialSource:
    """Finds the source of a dataset with somebody's splits."""
    return next(source for source in OFFICIAL_SOURCES if source.dataset == dataset and source.split_by == split_by)


ROSITA_SETS = {"refcoco": "rec-refcoco", "refcoco+": "rec-refcocoplus", "refcocog": "rec-refcocog"}
"""Our dataset name -> the name in ROSITA's folder of annotations, where ``-`` becomes ``_`` in file names."""


def rosita_file(dataset: str) -> str:
    """Names ROSITA's annotation file of a dataset."""
    return f"{ROSITA_SETS[dataset].replace('-', '_')}_annotations.json"
