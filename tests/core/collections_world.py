"""The toy world with images of three collections: COCO, Visual Genome, and photographs of Flickr that are both."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

import toy_world as toy

from vlrun import DatasetConfig, Entry, Example, hookimpl
from vlrun.config.experiment import Experiment, load_experiment
from vlrun.data.identities import write_identities
from vlrun.engine.run_folder import RunFolder
from vlrun.features.writer import write_store
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.run import RunResult

NAMES = {
    "coco": [f"COCO_train2014_{number:012d}" for number in range(1, toy.NUM_IMAGES + 1)],
    "genome": [str(number) for number in range(1, toy.NUM_IMAGES + 1)],
    "photos": [str(100 + number) for number in range(1, toy.NUM_IMAGES + 1)],
}
SHARED = 3
"""So many images of Visual Genome are COCO's; all of COCO's are photographs."""
GROUPS = [
    [name, f"flickr:{photo}", *([f"visual-genome:{number}"] if int(number) <= SHARED else [])]
    for name, number, photo in zip(*NAMES.values(), strict=True)
]


class GenomeConfig(DatasetConfig):
    image_collection: ClassVar[str | None] = "visual-genome"


class PhotosConfig(DatasetConfig):
    image_collection: ClassVar[str | None] = "flickr"


class NamedToys(toy.ToyDataset):
    def __init__(self, config: DatasetConfig, split: str) -> None:
        super().__init__(config, split)
        self.names = NAMES[config.name]
        if split == "test":  # has one image, which the others have too
            self.names = self.names[-1:]

    def __getitem__(self, index: int) -> Example[int]:
        example = super().__getitem__(index)
        return replace(example, image_ids=(self.names[index % len(self.names)],))


class OneImageTask(toy.ToyTask):
    """Takes the own image again for the negative, which the toy's task would look for under the toy's names."""

    def pairs(self, example: Example[int], rng: Any) -> list[Any]:
        own, _ = super().pairs(example, rng)
        return [own, own]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    configs = {
        "coco": "vlrun:DatasetConfig",
        "genome": f"{__name__}:GenomeConfig",
        "photos": f"{__name__}:PhotosConfig",
    }
    return [
        Entry(name=name, summary="", config=config, factory=f"{__name__}:NamedToys", target="class")
        for name, config in configs.items()
    ]


@hookimpl
def vlrun_tasks() -> list[Entry]:
    own = f"{__name__}:OneImageTask.from_config"
    return [Entry(name="same", summary="", config="vlrun:TaskConfig", factory=own, target="class")]


def plugins_with_collections() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    own = [EntryPoint("toy", "toy_world", "vlrun"), EntryPoint("collections", __name__, "vlrun")]
    return create_plugins([*core, *own])


def written(root: Path) -> Path:
    """The stores and split files of all collections under ``root``."""
    data = root / "data"
    for names in NAMES.values():
        store = data / f"{names[0]}.lmdb"
        write_store(store, [replace(toy.image_features(index), image_id=name) for index, name in enumerate(names)])
    for split in toy.SIZES:
        (data / f"{split}.jsonl").touch()
    return root


def with_table(folder: Path, name: str = "image_identities.jsonl") -> Path:
    path = folder / "data" / name
    write_identities(path, GROUPS, [{"file": "image_data.json", "sha256": "0", "images": toy.NUM_IMAGES}])
    return path


def experiment(folder: Path, plugins: Plugins, tasks: dict[str, str], *overrides: str) -> Experiment:
    """One task per dataset, with the split that it trains on: all images of ``train``, or the one of ``test``."""
    blocks = [
        f"  - {{name: same, label: {name}, dataset: {{name: {name}, annotations: ., features: {NAMES[name][0]}.lmdb, "
        f"train: [{train}], evaluate: [val]}}}}\n"
        for name, train in tasks.items()
    ]
    head, _, tail = toy.EXPERIMENT.partition("tasks:\n")
    train, _, _ = tail[tail.index("train:\n") :].partition("published:")
    (folder / "named.yaml").write_text(f"{head}tasks:\n{''.join(blocks)}{train}")
    roots = [f"data_root={folder / 'data'}", f"runs_root={folder / 'runs'}", "train.epochs=1"]
    return load_experiment(folder / "named.yaml", [*roots, *overrides], plugins=plugins)


def protocols(result: RunResult) -> dict[str, dict[str, Any]]:
    return {row.task: dict(row.score.protocol) for row in result.rows}


def data_of(result: RunResult) -> dict[str, Any]:
    return RunFolder(result.folder).read_data()
