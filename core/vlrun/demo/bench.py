"""``runner bench --demo``: the demo's texts, with features and a vocabulary as large as the experiment has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment, Layer
from vlrun.demo.data import DemoData, prepare_demo
from vlrun.demo.run import demo_dataset
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store
from vlrun.files import write_text
from vlrun.interfaces.examples import RegionFeatures
from vlrun.plugins.manager import Plugins

_VOCABULARY_SIZE = 30_522  # that of bert-base-uncased, which the papers' backbones have


@contextmanager
def full_size_layer(experiment: Experiment, plugins: Plugins, progress: Callable[[str], None]) -> Iterator[Layer]:
    """The values that put generated data in place of the experiment's own; files that it needs go with the context.

    The regions of the demo's images are repeated until there are as many as the experiment has, as wide as it has
    them. Backbone and recipe stay as they are, but for weights.

    Raises:
        PluginError: no plugin has demo data for one of the datasets.
    """
    data = prepare_demo(plugins, [demo_dataset(task) for task in experiment.tasks], progress)
    with tempfile.TemporaryDirectory() as folder:
        yield Layer("bench --demo", _values(experiment, data, Path(folder)))


def _values(experiment: Experiment, data: DemoData, folder: Path) -> dict[str, Any]:
    backbone = experiment.backbone
    width = getattr(backbone, "region_feature_size", data.files.region_feature_size)
    regions = getattr(backbone, "num_regions", data.files.num_regions)
    vocabulary = folder / "vocabulary.txt"
    write_text(vocabulary, _padded_vocabulary(data.files.vocabulary.read_text(encoding="utf-8")))
    files = replace(data.files, vocabulary=vocabulary)
    named = {  # the files of the backbone are the demo's, its size is the experiment's
        option: value
        for option, value in type(backbone).demo_overrides(files).items()
        if isinstance(getattr(backbone, option, None), Path)
    }
    values: dict[str, Any] = {
        "demo": True,
        "data_root": str(data.root),
        "image_identities": None,
        **{f"backbone.{option}": value for option, value in named.items()},
    }
    stores: dict[Path, Path] = {}
    for index, task in enumerate(experiment.tasks):
        files_of_task = data.datasets[demo_dataset(task)]
        store = stores.get(files_of_task.features)
        if store is None:
            store = stores[files_of_task.features] = folder / f"features-{len(stores)}"
            _write_wide(files_of_task.features, store, regions, width)
        values[f"tasks.{index}.dataset.annotations"] = str(files_of_task.annotations)
        values[f"tasks.{index}.dataset.features"] = str(store)
        values[f"tasks.{index}.dataset.pictures"] = str(files_of_task.pictures)
        kept = {name: value for name, value in task.demo_overrides().items() if name != "batch_size"}
        values |= {f"tasks.{index}.{name}": value for name, value in kept.items()}
    return values


def _write_wide(source: Path, target: Path, regions: int, width: int) -> None:
    narrow = RegionFeatureStore(source)
    write_store(target, (_widened(narrow[image_id], regions, width) for image_id in narrow), extractor="demo, repeated")


def _widened(image: RegionFeatures, regions: int, width: int) -> RegionFeatures:
    """The image with its regions repeated, and their features, up to a number of them."""
    import numpy as np

    count, narrow = image.features.shape
    rows = np.arange(regions) % count
    columns = np.arange(width) % narrow
    per_region = ("boxes", "class_ids", "attribute_ids", "class_scores", "attribute_scores")
    values = {name: getattr(image, name) for name in per_region}
    return replace(
        image,
        features=image.features[rows][:, columns],
        **{name: value[rows] for name, value in values.items() if value is not None},
    )


def _padded_vocabulary(text: str) -> str:
    tokens = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    unused = (f"[unused{number}]" for number in range(_VOCABULARY_SIZE - len(tokens)))
    return "\n".join([*tokens, *unused]) + "\n"
