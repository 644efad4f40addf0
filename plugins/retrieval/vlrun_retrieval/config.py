"""The options that an experiment file may set for the retrieval task and its datasets (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from vlrun import Config, DataPath, DatasetConfig, NamedOptions, RequiredFile, TaskConfig
from vlrun_retrieval.sources import COCO, FLICKR30K, OBTAIN, Collection

NEGATIVES_SUFFIX = ".npz"


class RerankConfig(Config):
    """A cheap first stage: only what another model ranks high is scored."""

    scores: DataPath = Field(description="score matrix of another run on this split, in its scores folder (.npy)")
    candidates: PositiveInt = Field(description="how many of the best texts per image, and images per text, are scored")
    final: bool = Field(False, description="also at the end, not only between epochs; written into every score")


class MatchingConfig(TaskConfig):
    """Options of tasks that rank images and texts by how well they match."""

    speed_options: ClassVar[tuple[str, ...]] = ("pairs_per_batch",)

    protocols: list[Literal["all", "first-five", "5-fold-1k", "first-caption"]] = Field(
        ["all"],
        min_length=1,
        description="who competes with whom: all; first-five captions of each image (COCO 5k); 5-fold-1k: the mean "
        "over folds of 1,000 images; first-caption of each image alone (LXMERT-S's text retrieval)",
    )
    ties: Literal["stable_low_index_first", "optimistic", "pessimistic"] = Field(
        "stable_low_index_first", description="where a right candidate stands among wrong ones with the same score"
    )
    score: Literal["log-odds", "match-logit"] = Field(
        "log-odds",
        description="log-odds of a match, which orders pairs as its probability does and never saturates; match-logit "
        "alone, as LXMERT-S's fine-tuned text retrieval ranks",
    )
    validation_images: PositiveInt | None = Field(
        None, description="between epochs, only so many first images and their texts; null: all"
    )
    rerank: RerankConfig | None = Field(None, description="score only candidates of a cheap first stage; null: all")
    pairs_per_batch: PositiveInt | None = Field(
        None, description="pairs per forward pass when a pool is scored; null: 64 on a CPU, on a GPU what fits well"
    )

    def required_files(self) -> list[RequiredFile]:
        """Also the score matrix of the first stage."""
        if self.rerank is None:
            return super().required_files()
        remedy = "evaluate another run on the same split and name its scores/<task>_<split>.npy"
        return [*super().required_files(), RequiredFile(self.rerank.scores, "scores of the first stage", remedy)]

    def demo_overrides(self) -> dict[str, Any]:
        """The demo has no splits of 5,000 images and no other run's scores."""
        from vlrun_retrieval.ranking import PROTOCOLS

        protocols = [name for name in self.protocols if PROTOCOLS[name].images_per_fold is None]
        return {
            **super().demo_overrides(),
            "protocols": protocols or ["all"],
            "validation_images": None,
            "rerank": None,
        }


@dataclass(frozen=True)
class MiningSchedule:
    """ROSITA's NEG_RANDSIZE, NEG_HARDSIZE, NEG_NEPOCH and NEG_START_EPOCH."""

    candidates: int
    keep: int
    every: int
    from_epoch: int

    def due_epoch(self, epoch: int) -> int | None:
        """The epoch, ``epoch`` or one before it, whose mining ``epoch`` trains with; None before the first."""
        due = epoch - epoch % self.every  # ROSITA: e % NEG_NEPOCH == 0 and e >= NEG_START_EPOCH
        return due if due >= self.from_epoch else None


class NegativesConfig(NamedOptions):
    """Where a training pair's wrong captions and images come from; each kind takes its own options and no others."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "random": {},
        "in-batch": {},
        "mined": {"candidates": 128, "keep": 5, "every": 1, "from_epoch": 0},
        "pool": {"file": None},
    }

    name: Literal["random", "in-batch", "mined", "pool"] = Field(
        "random",
        description="random: any other image; in-batch: the other images of the global batch; mined: those that the "
        "current model finds hard; pool: those of a file that `runner mine-negatives` wrote",
    )
    candidates: PositiveInt | None = Field(None, description="mined: drawn and scored per image and per caption (128)")
    keep: PositiveInt | None = Field(None, description="mined: best candidates of each that are trained with (5)")
    every: PositiveInt | None = Field(None, description="mined: epochs from one mining to the next (1)")
    from_epoch: NonNegativeInt | None = Field(
        None, description="mined: first epoch, counted from 0, that is mined for; random before it (0)"
    )
    file: DataPath | None = Field(None, description=f"pool: the {NEGATIVES_SUFFIX} file")

    @model_validator(mode="after")
    def _options_make_sense(self) -> NegativesConfig:
        if self.name == "pool" and (self.file is None or self.file.suffix != NEGATIVES_SUFFIX):
            raise ValueError(
                f"'pool' needs the option 'file', a {NEGATIVES_SUFFIX} file that `runner mine-negatives RUN` writes"
                + (f"; this is {self.file.name}" if self.file else "")
            )
        if self.candidates and self.keep and self.keep > self.candidates:
            raise ValueError(f"'mined' cannot keep {self.keep} of {self.candidates} candidates")
        return self

    @property
    def schedule(self) -> MiningSchedule | None:
        """When and how negatives are mined; None where they are not."""
        if self.name != "mined":
            return None
        return MiningSchedule(self.candidates or 0, self.keep or 0, self.every or 1, self.from_epoch or 0)


class RetrievalConfig(MatchingConfig):
    """Image-text retrieval: tell the captions of an image from those of others."""

    loss: Literal["triple", "four-way", "contrastive"] = Field(
        "triple",
        description="triple: own pair twice, wrong caption, wrong image (ROSITA); four-way: own pair, random image, "
        "hard caption, random caption, with equal weight (LXMERT-S); contrastive: which text and which image of the "
        "global batch (CLIP; for backbones of two towers)",
    )
    negatives: NegativesConfig = Field(
        default_factory=NegativesConfig,
        description="source of wrong captions and images (triple), or of the hard caption (four-way)",
    )

    @model_validator(mode="after")
    def _a_contrast_is_with_the_batch(self) -> RetrievalConfig:
        if self.loss == "contrastive" and self.negatives.name != "in-batch":
            raise ValueError(
                "loss 'contrastive' tells a pair from the others of its batch: set negatives.name=in-batch"
            )
        return self

    def required_files(self) -> list[RequiredFile]:
        """Also the file of hard negatives, where something is trained."""
        files = list(super().required_files())
        if self.negatives.file is not None and self.dataset.train:
            remedy = (
                f"runner mine-negatives RUN --out {self.negatives.file}\n"
                f"RUN is the folder of a run on {self.dataset.name}, with any backbone"
            )
            files.append(RequiredFile(self.negatives.file, f"hard negatives of task '{self.display_name}'", remedy))
        return files

    def demo_overrides(self) -> dict[str, Any]:
        """Few candidates, mined in the demo itself as no pool file fits its images."""
        hard = {"name": "mined", "candidates": 8, "keep": 3, "every": 2, "from_epoch": 1}
        negatives = {"negatives": hard} if self.negatives.name in ("mined", "pool") else {}
        return {**super().demo_overrides(), **negatives}


class KarpathyConfig(DatasetConfig):
    """What both collections have in common.

    Attributes:
        collection: what is published of it.
    """

    collection: ClassVar[Collection]

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        collection = self.collection
        names = ", ".join(collection.rosita_splits.values())
        return [
            f"{OBTAIN}. Then:",
            f"runner data build {self.name} --from {collection.publishes[0]} {collection.karpathy_file} "
            f"{self.annotations}",
            f"Or, from {collection.rosita_file} that ROSITA publishes ({names}):",
            f"runner data build {self.name} --from rosita FILE {self.annotations}",
            f"(other sources: `runner data sources {self.name}`)",
        ]


class CocoRetrievalConfig(KarpathyConfig):
    """COCO captions: train (Karpathy's train and restval), val, test (5,000 images), test1k (ROSITA's test)."""

    collection = COCO
    known_splits = tuple(COCO.images)
    pictures_from = "train2014 and val2014 of COCO (https://cocodataset.org/#download)"

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get bottom-up-attention features of COCO train2014 and val2014, 36 boxes per image (ROSITA: "
            "mscoco_bua_r101_fix36), then:",
            self.features_command("rosita-tsv", "FOLDER", extractor="bua-caffe", boxes="36"),
            "(other formats: `runner features build --help`)",
        ]


class Flickr30kConfig(KarpathyConfig):
    """Flickr30k with Karpathy's splits: train, val, test. Those of Flickr30k Entities are others."""

    collection = FLICKR30K
    image_collection = "flickr"
    known_splits = tuple(FLICKR30K.images)
    pictures_from = (
        "Flickr30k's images, for which its authors have a form (https://shannon.cs.illinois.edu/DenotationGraph)"
    )

    def features_remedy(self) -> list[str]:
        """Which features fit, and the commands that import them."""
        return [
            "Get bottom-up-attention features of Flickr30k, 36 boxes per image: ROSITA's folder, or LXMERT-S's "
            "flickr30k_train2014.tsv and flickr30k_test2014.tsv, then:",
            self.features_command("rosita-tsv", "FOLDER", extractor="bua-caffe", boxes="36"),
            self.features_command("lxmert-tsv", "flickr30k_train2014.tsv", "flickr30k_test2014.tsv"),
            "(other formats: `runner features build --help`)",
        ]
