"""The images that a caption may meet in place of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from vlrun import DataError, DatasetConfig, RegionFeatureStore
from vlrun.data.annotations import AnnotationFile


class OtherImages:
    """The images of one split."""

    def __init__(self, split: str, image_ids: Iterable[str]) -> None:
        self.split = split
        self._ids = tuple(dict.fromkeys(image_ids))
        self._places = {image_id: place for place, image_id in enumerate(self._ids)}

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def other_than(self, image_id: str, rng: np.random.Generator) -> str:
        """Any of the images but this one, all equally likely.

        Raises:
            DataError: there is no other.
        """
        if len(self._ids) < 2:
            raise DataError(f"split '{self.split}' has one image alone, so no caption of it can meet another image")
        step = int(rng.integers(1, len(self._ids)))
        return self._ids[(self._places[image_id] + step) % len(self._ids)]


def images_to_evaluate(config: DatasetConfig) -> Mapping[str, OtherImages]:
    """The images of every evaluation split, of those that have features.

    They come from the files and not from the examples in use, so that a score is the same whenever and with whatever
    other splits it is computed.

    Raises:
        DataError: a file or the features are missing.
    """
    store = RegionFeatureStore(config.features)
    found = {}
    for split in config.evaluate:
        ids = dict.fromkeys(str(line["image"]) for line in AnnotationFile(config.split_file(split)))
        missing = set(store.missing(ids))
        found[split] = OtherImages(split, (image_id for image_id in ids if image_id not in missing))
    return found
