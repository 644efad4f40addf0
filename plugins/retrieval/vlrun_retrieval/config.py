"""The options that an experiment file may set for the datasets of retrieval (no torch here)."""

from __future__ import annotations

from vlrun import DatasetConfig, RequiredFile
from vlrun_retrieval.sources import COCO, FLICKR30K, OBTAIN, Collection


class CocoRetrievalConfig(DatasetConfig):
    """COCO captions: train (Karpathy's train and restval), val, test (5,000 images), test1k (ROSITA's 1,000)."""

    known_splits = tuple(COCO.sizes)

    def required_files(self) -> list[RequiredFile]:
        features = [
            "Get bottom-up-attention features of COCO train2014 and val2014, 36 boxes per image (ROSITA: "
            "mscoco_bua_r101_fix36), then:",
            f"runner features build --from rosita-tsv FOLDER {self.features}",
        ]
        return _with_remedies(self, COCO, features)


class Flickr30kConfig(DatasetConfig):
    """Flickr30k with Karpathy's splits: train, val, test. Those of Flickr30k Entities are others."""

    known_splits = tuple(FLICKR30K.sizes)

    def required_files(self) -> list[RequiredFile]:
        features = [
            "Get bottom-up-attention features of Flickr30k, 36 boxes per image: ROSITA's folder, or LXMERT-S's "
            "flickr30k_train2014.tsv and flickr30k_test2014.tsv, then:",
            f"runner features build --from rosita-tsv FOLDER {self.features}",
            f"runner features build --from lxmert-tsv flickr30k_train2014.tsv flickr30k_test2014.tsv {self.features}",
        ]
        return _with_remedies(self, FLICKR30K, features)


def _with_remedies(config: DatasetConfig, collection: Collection, features: list[str]) -> list[RequiredFile]:
    """The files that every dataset needs, with what to download and the commands that make ours from it."""
    annotations = [
        f"{OBTAIN}. Then:",
        f"runner data build {config.name} --from karpathy {collection.karpathy_file} {config.annotations}",
        f"Or, from {collection.rosita_file} that ROSITA publishes ({', '.join(collection.rosita_splits.values())}):",
        f"runner data build {config.name} --from rosita FILE {config.annotations}",
        f"(other sources: `runner data sources {config.name}`)",
    ]
    features = [*features, "(other formats: `runner features build --help`)"]
    return [
        RequiredFile(file.path, file.purpose, "\n".join(features if file.path == config.features else annotations))
        for file in DatasetConfig.required_files(config)
    ]
