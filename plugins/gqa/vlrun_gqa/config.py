"""The options that an experiment file may set for the GQA task, its dataset and its metric (no torch here)."""

from __future__ import annotations

from vlrun import AnsweringConfig, DatasetConfig, MetricConfig
from vlrun_gqa.sources import LXMERT_OBTAIN, OFFICIAL_OBTAIN, SPLITS


class GqaConfig(AnsweringConfig):
    """Question answering on GQA: one class per answer; by default LXMERT's loss, binary cross entropy over answers."""


class GqaAccuracyConfig(MetricConfig):
    """The scores of the official evaluator: accuracy, consistency, validity, plausibility, distribution."""


class GqaDatasetConfig(DatasetConfig):
    """GQA: train, valid, testdev, test, challenge (balanced), the same with _all, and submission (the server's)."""

    image_collection = "visual-genome"
    known_splits = SPLITS
    pictures_from = "GQA's images (https://cs.stanford.edu/people/dorarad/gqa/download.html)"

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        return [
            f"{OFFICIAL_OBTAIN}, then:",
            f"runner data build {self.name} --from official FOLDER {self.annotations}",
            f"Or {LXMERT_OBTAIN[0].lower()}{LXMERT_OBTAIN[1:]}, then:",
            f"runner data build {self.name} --from lxmert FOLDER {self.annotations}",
        ]

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get LXMERT's features of all GQA images, 36 boxes each (vg_gqa_obj36.tsv), then:",
            self.features_command("lxmert-tsv", "vg_gqa_obj36.tsv", extractor="bua-caffe", boxes="36"),
            "(other formats: `runner features build --help`)",
        ]
