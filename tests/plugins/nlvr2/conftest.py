"""Small statements and archives for the tests of NLVR2, and the real development set without its sentences."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlrun import Dataset, Example
from vlrun_nlvr2.build import build_official
from vlrun_nlvr2.config import Nlvr2Config, Nlvr2TaskConfig
from vlrun_nlvr2.dataset import Statement, Statements
from vlrun_nlvr2.task import Nlvr2Task

SUBSETS = {"b": "balanced", "u": "unbalanced"}


class Examples(Dataset[Statement]):
    """Examples held in a list."""

    def __init__(self, examples: Sequence[Example[Statement]]) -> None:
        self.examples = list(examples)
        self.split = "dev"
        self.protocol = {"annotations": "dev.jsonl", "features": "nlvr2-obj36"}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[Statement]:
        return self.examples[index]


@pytest.fixture
def make_dataset() -> Callable[..., Examples]:
    """``make_dataset(labels, groups)``: examples "0", "1", ...; a label of None is hidden. More fields as lists."""

    def make(labels: Sequence[bool | None], groups: Sequence[str] | None = None, **fields: Sequence[Any]) -> Examples:
        names = groups or [f"dev-{index}--0" for index in range(len(labels))]
        return Examples(
            [
                Example(
                    str(index),
                    "Two owls.",
                    (f"dev-{index}-0-img0", f"dev-{index}-0-img1"),
                    None
                    if label is None
                    else Statement(label, names[index], **{name: values[index] for name, values in fields.items()}),
                )
                for index, label in enumerate(labels)
            ]
        )

    return make


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Nlvr2Config]:
    def make(**options: Any) -> Nlvr2Config:
        paths = {"annotations": tmp_path / "annotations", "features": tmp_path / "store"}
        return Nlvr2Config(**{"name": "nlvr2", "evaluate": ["dev"], **paths, **options})

    return make


@pytest.fixture
def task() -> Nlvr2Task:
    dataset = {"name": "nlvr2", "annotations": "annotations", "features": "features", "evaluate": ["dev"]}
    return Nlvr2Task(Nlvr2TaskConfig(name="nlvr2", dataset=dataset))


class Archive:
    """A small archive in the official layout, to be changed before it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, list[Any]] = {
            "train.json": [self.row("train-7-0-0", "True"), self.row("train-7-1-0", "False")],
            "dev.json": [
                self.row("dev-850-0-0", "True", "Only one gerbil."),
                self.row("dev-850-0-1", "False"),
                self.row("dev-850-2-0", "False", "Only one gerbil."),
            ],
            "balanced/balanced_dev.json": [self.row("dev-850-0-0", "True"), self.row("dev-850-2-0", "False")],
            "unbalanced/unbalanced_dev.json": [],
        }
        self.phenomena = "Only one gerbil.\r\n* hard cardinality\r\n* cc ambiguity\r\n\r\nNo owl.\r\n* negation\r\n\r\n"

    @staticmethod
    def row(identifier: str, label: str | None, sentence: str = "Two owls sit on one branch.") -> dict[str, Any]:
        """A line of an official file, also with keys that nobody reads."""
        known = {} if label is None else {"label": label, "validation": {"9": "False"}}
        return {"identifier": identifier, "sentence": sentence, "left_url": "http://a", "synset": "owl", **known}

    def write(self, phenomena: str | None = "annotated_dev_examples.txt") -> Path:
        for name, rows in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            path.write_text("".join(f"{line}\n" for line in lines or [json.dumps(self.files["dev.json"][1])]))
        if phenomena:
            (self.folder / phenomena).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / phenomena).write_bytes(self.phenomena.encode())
        return self.folder


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "data")


@pytest.fixture(scope="session")
def real_dev(tmp_path_factory: pytest.TempPathFactory) -> Statements:
    """The development set as the official builder makes it; identifiers, labels and groups are real, texts are not."""
    folder = tmp_path_factory.mktemp("nlvr2")
    compact = json.loads(gzip.decompress(Path(__file__).with_name("dev_compact.json.gz").read_bytes()))
    files: dict[str, list[str]] = {"dev": [], "balanced": [], "unbalanced": []}
    columns = (compact[name] for name in ("identifiers", "labels", "subsets", "sentences"))
    for identifier, label, subset, sentence in zip(*columns, strict=True):
        row = {"identifier": identifier, "sentence": f"Sentence {sentence}.", "label": ("False", "True")[int(label)]}
        for name in ("dev", *([SUBSETS[subset]] if subset in SUBSETS else [])):
            files[name].append(f"{json.dumps(row)}\n")
    for name, lines in files.items():
        path = folder / ("dev.json" if name == "dev" else f"{name}/{name}_dev.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines))
    blocks = [
        "".join([f"Sentence {sentence}.\r\n", *(f"* {name}\r\n" for name in names), "\r\n"])
        for sentence, names in compact["phenomena"].items()
    ]
    (folder / "annotated_dev_examples.txt").write_bytes("".join(blocks).encode())
    build_official(folder, folder / "built")
    config = Nlvr2Config(name="nlvr2", annotations=folder / "built", features=folder, evaluate=["dev"])
    return Statements(config, "dev")


@pytest.fixture(scope="session")
def official_csv(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``official_csv(name)``: a copy of a file of predictions for the whole development set that the official scripts
    scored; it may lie there compressed."""

    def unpack(name: str) -> Path:
        path, source = tmp_path_factory.mktemp("csv") / name, golden / "metrics/nlvr2" / name
        packed = source.with_name(f"{name}.gz")
        path.write_bytes(source.read_bytes() if source.is_file() else gzip.decompress(packed.read_bytes()))
        return path

    return unpack
