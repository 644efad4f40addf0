"""The options that an experiment file may set for the REC task, its datasets and its metric (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from vlrun import DatasetConfig, MetricConfig, TaskConfig
from vlrun_rec.sources import official_source, rosita_file

IouRuleName = Literal["plus_one", "inclusive", "continuous"]  # vlrun.blocks.boxes has the definitions, and needs numpy


class RecConfig(TaskConfig):
    """Referring expression comprehension: rank the regions, refine the box of the best one."""

    needs_regions: ClassVar[bool] = True

    iou_rule: IouRuleName = Field(
        "plus_one", description="how pixels are counted: plus_one (ROSITA, VOLTA), inclusive (UNITER), continuous"
    )
    iou_threshold: float = Field(0.5, gt=0, le=1, description="a box is right from this IoU on (>=)")
    regression_weight: NonNegativeFloat = Field(0.5, description="factor on the box loss; the ranking loss has 1")
    regress_boxes: bool = Field(True, description="refine the chosen region's box; false: predict it as it is")
    score_padded_regions: bool = Field(
        False, description="let padding compete with the regions, as ROSITA's released code does"
    )


class GroundingAccuracyConfig(MetricConfig):
    """Share of expressions whose predicted box overlaps the annotated one enough."""

    iou_rule: IouRuleName = Field("plus_one", description="how pixels are counted, as in the task's option")
    iou_threshold: float = Field(0.5, gt=0, le=1, description="IoU from which a box is right")
    comparison: Literal[">=", ">"] = Field(
        ">=",
        description="whether an IoU of exactly the threshold is right (>= ROSITA, refer API) or not (> VOLTA, UNITER)",
    )


class RefConfig(DatasetConfig):
    """What the datasets have in common: images of COCO."""

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get bottom-up-attention features of COCO train2014, 36 boxes per image (ROSITA: mscoco_bua_r101_fix36), "
            "then:",
            self.features_command("rosita-tsv", "FOLDER", extractor="bua-caffe", boxes="36"),
            "(other formats: `runner features build --help`)",
        ]


class RefCocoConfig(RefConfig):
    """RefCOCO and RefCOCO+ with the splits of UNC: train, val, testA (people), testB (other objects)."""

    known_splits = ("train", "val", "testA", "testB")
    split_by: ClassVar[str] = "unc"

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        return _annotations_remedy(self, self.split_by)


class RefCocogConfig(RefConfig):
    """RefCOCOg: train, val, test of UMD, or train, val of Google."""

    known_splits = ("train", "val", "test")

    split_by: Literal["umd", "google"] = Field(
        "umd", description="umd: splits share no image; google: train and val do, and there is no test"
    )

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it; ROSITA has the splits of UMD."""
        return _annotations_remedy(self, self.split_by)


def _annotations_remedy(config: RefConfig, split_by: str) -> list[str]:
    source = official_source(config.name, split_by)
    lines = [
        f"{source.obtain}, then:",
        f"runner data build {config.name} --from {source.name} FOLDER {config.annotations}",
    ]
    if split_by != "google":
        lines += [
            f"Or, from the annotations that ROSITA publishes ({rosita_file(config.name)}):",
            f"runner data build {config.name} --from rosita FILE {config.annotations}",
        ]
    return lines
