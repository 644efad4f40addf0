"""The options that an experiment file may set for the VQA task, its dataset and its metric (no torch here)."""

from __future__ import annotations

from pydantic import Field

from vlrun import AnsweringConfig, DatasetConfig, MetricConfig
from vlrun_vqa.accuracy import Evaluator
from vlrun_vqa.sources import OBTAIN, SPLIT_SIZES


class VqaConfig(AnsweringConfig):
    """Visual question answering: choose one of the answers of a vocabulary."""

    normalise_answers: bool = Field(
        False,
        description="spell people's answers as the vocabulary does before looking them up for training (ROSITA); "
        "false: look them up as they were typed",
    )


class VqaAccuracyConfig(MetricConfig):
    """The official accuracy: an answer is right as far as other people gave it."""

    evaluator: Evaluator = Field(
        "current", description="version of the official evaluator: current, or pre-2021, which many repositories copied"
    )


class VqaV2Config(DatasetConfig):
    """VQA v2: train, val, test, test-dev of the official files; minival and nominival are LXMERT's parts of val."""

    known_splits = tuple(SPLIT_SIZES)
    pictures_from = "train2014, val2014 and test2015 of COCO (https://cocodataset.org/#download)"

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        published = [source for source in ("lxmert", "rosita") if source not in self.unusable_sources]
        whose = " or ".join(source.upper() for source in published)
        return [
            f"{OBTAIN}, then:",
            f"runner data build {self.name} --from official FOLDER {self.annotations}",
            "(LXMERT's minival.json beside them makes minival and nominival, trainval_label2ans.json the vocabulary)",
            f"Or, from the files that {whose} publishes:",
            *(f"runner data build {self.name} --from {source} FOLDER {self.annotations}" for source in published),
        ]

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get bottom-up-attention features of COCO train2014 and val2014 (and test2015), 36 boxes per image, then:",
            self.features_command("rosita-tsv", "mscoco_bua_r101_fix36", extractor="bua-caffe", boxes="36"),
            self.features_command(
                "lxmert-tsv", "train2014_obj36.tsv", "val2014_obj36.tsv", extractor="bua-caffe", boxes="36"
            ),
            "(a checkpoint needs the features that it was trained on; other formats: `runner features build --help`)",
        ]
