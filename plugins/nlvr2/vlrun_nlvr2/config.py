"""The options that an experiment file may set for NLVR2's task, dataset and metric (no torch here)."""

from __future__ import annotations

from vlrun import DatasetConfig, MetricConfig, TaskConfig
from vlrun_nlvr2.sources import LXMERT_FILES, LXMERT_REPOSITORY, PUBLISHED_SIZES, REPOSITORY


class Nlvr2TaskConfig(TaskConfig):
    """Whether a statement about two images is true: two pairs per statement, left image first."""


class Nlvr2AccuracyConfig(MetricConfig):
    """Accuracy and consistency, overall, on the balanced and the unbalanced subset, and by linguistic phenomenon."""


class Nlvr2Config(DatasetConfig):
    """NLVR2: train, dev, test1 (test-P) and test2 (test-U)."""

    known_splits = tuple(PUBLISHED_SIZES)
    pictures_from = f"NLVR2's images, for which its authors have a form ({REPOSITORY}/tree/master/nlvr2)"

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        return [
            f"git clone {REPOSITORY}",
            f"runner data build {self.name} --from official nlvr/nlvr2/data {self.annotations}",
            f"Or, from {', '.join(LXMERT_FILES.values())} that LXMERT publishes (without test2):",
            f"runner data build {self.name} --from lxmert FOLDER {self.annotations}",
        ]

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get the features that LXMERT publishes, 36 boxes per image: train_obj36.tsv, valid_obj36.tsv and "
            f"test_obj36.tsv of nlvr2_imgfeat (links: {LXMERT_REPOSITORY}), then:",
            self.features_command(
                "lxmert-tsv",
                "train_obj36.tsv",
                "valid_obj36.tsv",
                "test_obj36.tsv",
                extractor="bua-caffe",
                boxes="36",
            ),
            "(they have no images of test2; other formats: `runner features build --help`)",
        ]
