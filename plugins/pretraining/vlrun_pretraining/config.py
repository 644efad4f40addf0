"""The options that an experiment file may set for pre-training and its dataset (no torch here)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeFloat

from vlrun import DatasetConfig, TaskConfig
from vlrun_pretraining.sources import OBTAIN, OFFICIAL_FILES

Probability = Annotated[float, Field(ge=0, le=1)]


class PretrainConfig(TaskConfig):
    """Masked words, masked regions and image-text matching; probabilities are those of LXMERT."""

    needs_regions: ClassVar[bool] = True

    mask_words: Probability = Field(0.15, description="probability with which a word piece is masked")
    mask_regions: Probability = Field(0.15, description="probability with which the features of a region are masked")
    mismatch: Probability = Field(
        0.5, description="probability with which a caption meets another image; also in evaluation"
    )
    word_weight: NonNegativeFloat = Field(1.0, description="factor on the loss of masked words")
    region_weight: NonNegativeFloat = Field(1.0, description="factor on the loss of masked regions")
    matching_weight: NonNegativeFloat = Field(1.0, description="factor on the loss of matching")
    learn_from_mismatched: bool = Field(
        False, description="guess masked words and regions also where caption and image do not match, as LXMERT does"
    )

    def demo_overrides(self) -> dict[str, Any]:
        """Of the demo's short captions 0.15 would mask one word or none: it would take twice as long to learn."""
        return {**super().demo_overrides(), "mask_words": 0.3}


class CocoCaptionsConfig(DatasetConfig):
    """COCO's captions with its own splits of 2014: train and val."""

    known_splits = tuple(OFFICIAL_FILES)

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        return [f"{OBTAIN}. Then:", f"runner data build {self.name} --from official FOLDER {self.annotations}"]

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get bottom-up-attention features of COCO train2014 and val2014, 36 boxes per image (ROSITA: "
            "mscoco_bua_r101_fix36; LXMERT: mscoco_imgfeat), then one of:",
            self.features_command("rosita-tsv", "FOLDER", extractor="bua-caffe", boxes="36"),
            self.features_command(
                "lxmert-tsv", "train2014_obj36.tsv", "val2014_obj36.tsv", extractor="bua-caffe", boxes="36"
            ),
            "(other formats: `runner features build --help`)",
        ]
