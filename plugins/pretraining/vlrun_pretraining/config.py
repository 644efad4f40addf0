"""The options that an experiment file may set for pre-training and its dataset (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from vlrun import Config, DataPath, DatasetConfig, NamedOptions, RequiredFile, TaskConfig
from vlrun_pretraining.sources import (
    ANSWERS_FILE,
    CLASS_NAMES_FILE,
    GENOME_SPLIT,
    LXMERT_OBTAIN,
    LXMERT_SPLITS,
    OBTAIN,
    OFFICIAL_FILES,
    ROSITA_HELD_OUT,
    ROSITA_OBTAIN,
    ROSITA_SETS,
    WORD_VECTORS_FILE,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Loss = Literal["matching", "words", "features", "classes", "attributes", "answers", "topics", "transport"]


DEFAULT_WEIGHTS: Mapping[str, float] = {"transport": 0.1}
"""Loss -> its factor where it is not 1."""


class MaskingOptions(NamedOptions):
    """Which words and regions have to be guessed."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "random": {"words": 0.15, "regions": 0.15, "shuffled_images": 0.0},
        "spans": {"words": 0.15, "regions": 0.15, "shuffled_images": 0.0, "longest": 10, "geometric": 0.2},
        "knowledge": {
            "words": 0.15,
            "regions": 0.15,
            "text_side": 0.5,
            "object_word": 0.5,
            "spread": 0.3,
            "spread_overlap": 0.2,
            "least_affinity": 0.5,
            "affinity_ratio": 0.9,
        },
    }

    name: Literal["random", "spans", "knowledge"] = Field(
        "random",
        description="random: each word piece and each region by chance, as in LXMERT; spans: runs of whole words (our "
        "choice for LXMERT-S, whose rule is not released); knowledge: words or regions of a pair, by the scene graph "
        "of its text, as in ROSITA",
    )
    words: Probability | None = Field(0.15, description="probability of a word piece, or share of the words in spans")
    regions: Probability | None = Field(0.15, description="probability of a region")
    shuffled_images: Probability | None = Field(
        None,
        description="share of the images in which features of further regions, as many as `regions` says, change "
        "places and have to be put right (our choice for IFRS of LXMERT-S); default: 0",
    )
    longest: PositiveInt | None = Field(None, description="spans: most words of a span (default: 10)")
    geometric: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="spans: p of the geometric distribution of their length (default: 0.2)"
    )
    text_side: Probability | None = Field(
        None, description="knowledge: probability that words are hidden, and not regions (default: 0.5)"
    )
    object_word: Probability | None = Field(
        None,
        description="knowledge: probability of a word that is an object; then words that are often said of it follow, "
        "by their frequency (default: 0.5)",
    )
    spread: Probability | None = Field(
        None, description="knowledge: probability that a hidden region takes those along that overlap it (default: 0.3)"
    )
    spread_overlap: Probability | None = Field(
        None, description="knowledge: by more than which IoU they have to (default: 0.2)"
    )
    least_affinity: Probability | None = Field(
        None, description="knowledge: least affinity of an object of the text and a region that counts (default: 0.5)"
    )
    affinity_ratio: Probability | None = Field(
        None, description="knowledge: probability of a region, times its mean affinity (default: 0.9)"
    )


class MismatchOptions(Config):
    """Pairs whose text and image do not belong together."""

    probability: Probability = Field(0.5, description="probability with which a pair is one; also in evaluation")
    side: Literal["image", "text"] = Field(
        "image", description="what is replaced by that of an item with another image: the image, or the text (LXMERT)"
    )
    nearest: PositiveInt | None = Field(
        None,
        description="take the other image among so many that are most like it by their mean region feature, hard ones "
        "(our choice for ITM_HS of LXMERT-S); null: among all",
    )


class PretrainConfig(TaskConfig):
    """Which of the objectives are learned, and how pairs are masked; the defaults are a part of LXMERT's recipe."""

    needs_regions: ClassVar[bool] = True

    losses: list[Loss] = Field(
        ["matching", "words", "features"],
        min_length=1,
        description="what is learned: matching of text and image; masked words; features, classes and attributes of "
        "regions; answers to questions; topics of text and image; transport of words to regions, near in pairs that "
        "match and far in others",
    )
    masking: MaskingOptions = Field(MaskingOptions(name="random"), description="which words and regions to guess")
    mismatch: MismatchOptions = Field(MismatchOptions(), description="pairs that do not match")
    learn_from_mismatched: bool = Field(
        False, description="guess words and regions also where text and image do not match, as LXMERT does"
    )
    topics: Literal["phrase", "sentence"] = Field(
        "phrase",
        description="which word pieces are topics of a pair (our choice for TITP and TITS of LXMERT-S). phrase: those "
        "of the text's noun phrases and of the names of the regions that the detector is sure of; sentence: those of "
        "all content words of all texts of the image",
    )
    loss_weights: dict[Loss, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="factors of losses; default: 1, and of transport 0.1, as in ROSITA"
    )
    num_classes: PositiveInt = Field(1600, le=1_000_000, description="detector classes that there are")
    num_attributes: PositiveInt = Field(400, le=1_000_000, description="attributes that the detector tells apart")
    answers: DataPath | None = Field(
        None, description="answers that can be given, a JSON list; null: answers.json beside the annotations"
    )
    class_names: DataPath | None = Field(
        None,
        description="names of the detector classes, one a line, of which topics: phrase takes the words, and masking: "
        "knowledge their vectors; null: classes.txt beside the annotations",
    )
    word_vectors: DataPath | None = Field(
        None,
        description="vectors of the objects of texts and of the names of classes, for masking: knowledge; null: "
        "word_vectors.npz beside the annotations",
    )
    region_times_pooled: bool = Field(
        False, description="decode regions from the product of their states with the pooled state, as in LXMERT-S"
    )
    own_choices: list[str] = Field(
        [],
        description="what no source says of this recipe, so that the file decides; part of the protocol of every "
        "score, beside the options in use that are our choice",
    )

    @field_validator("losses")
    @classmethod
    def _losses_are_different(cls, losses: list[Loss]) -> list[Loss]:
        if repeated := sorted({loss for loss in losses if losses.count(loss) > 1}):
            raise ValueError(f"named twice: {', '.join(repeated)}")
        return losses

    @model_validator(mode="after")
    def _graphs_are_of_the_texts_that_are_shown(self) -> Self:
        if self.masking.name == "knowledge" and self.mismatch.side != "image":
            raise ValueError("masking: knowledge reads the graph of the text that is shown; set mismatch.side to image")
        return self

    def loss_weight_of(self, loss: str) -> float:
        """The factor of a loss."""
        return {**DEFAULT_WEIGHTS, **self.loss_weights}.get(loss, 1.0)

    @property
    def choices(self) -> list[str]:
        """What of the recipe is our choice: ``own_choices``, and the options in use that no source has."""
        masking, near = self.masking, self.mismatch.nearest
        options = {
            "words in spans": masking.name == "spans",
            f"regions that change places in {masking.shuffled_images or 0:.0%} of the images": masking.shuffled_images,
            f"{self.topics} topics": "topics" in self.losses,
            f"mismatches among the {near} most similar images": self.mismatch.probability and near,
        }
        return [*self.own_choices, *(option for option, is_used in options.items() if is_used)]

    @property
    def answers_path(self) -> Path:
        """The file of the answers that can be given."""
        return self.answers or self.dataset.annotations / ANSWERS_FILE

    @property
    def class_names_path(self) -> Path:
        """The file of the names of detector classes."""
        return self.class_names or self.dataset.annotations / CLASS_NAMES_FILE

    @property
    def word_vectors_path(self) -> Path:
        """The file of the vectors of words."""
        return self.word_vectors or self.dataset.annotations / WORD_VECTORS_FILE

    def required_files(self) -> list[RequiredFile]:
        """The answers of questions; names of classes and word vectors where topics or masking need them."""
        remedy, of_task = "\n".join(self.dataset.annotations_remedy()), f"of task '{self.display_name}'"
        files = []
        if "answers" in self.losses:
            files.append(RequiredFile(self.answers_path, f"answer vocabulary {of_task}", remedy))
        by_knowledge = self.masking.name == "knowledge"
        if by_knowledge or ("topics" in self.losses and self.topics == "phrase"):
            files.append(RequiredFile(self.class_names_path, f"names of the detector classes {of_task}", remedy))
        if by_knowledge:
            files.append(RequiredFile(self.word_vectors_path, f"word vectors {of_task}", remedy))
        return files

    def demo_overrides(self) -> dict[str, Any]:
        """Of the demo's short captions 0.15 would mask one word or none: it would take twice as long to learn.

        On LXMERT's texts matching and topics have ten times their weight: else they have not begun to be learned when
        the minutes are over. Of 1,400 images, the nearest half is as hard as the nearest 100 of real ones.
        """
        heavier: dict[str, Any] = {}
        slow = {name: 10.0 for name in ("matching", "topics") if name in self.losses}
        if slow and isinstance(self.dataset, LxmertPretrainingConfig):
            heavier["loss_weights"] = {**self.loss_weights, **slow}
        if self.mismatch.nearest is not None:
            heavier["mismatch.nearest"] = 700
        return {
            **super().demo_overrides(),
            **heavier,
            "masking.words": 0.3,
            "answers": None,
            "class_names": None,
            "word_vectors": None,
        }

    def demo_groups(self) -> list[dict[str, Any]]:
        """The topics of sentences are many more than those of phrases, which the head of the stage before knows: at
        the rate of the network its scores have not followed when the minutes are over.
        """
        is_slow = "topics" in self.losses and self.topics == "sentence"
        return [{"match": "heads.*.topics.*", "rate": 10.0}] if is_slow else []


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


class LxmertPretrainingConfig(DatasetConfig):
    """LXMERT's pre-training texts with its own splits."""

    known_splits = LXMERT_SPLITS

    sources: list[str] | None = Field(
        None,
        min_length=1,
        description="sets whose texts are used, in training and evaluation, such as [mscoco] for the captions of COCO "
        "alone (LXMERT's files: mscoco, vg, vqa, gqa, vgqa); null: all",
    )

    def annotations_remedy(self) -> list[str]:
        """What to download, and the command that makes our files from it."""
        return [f"{LXMERT_OBTAIN}. Then:", f"runner data build {self.name} --from lxmert FOLDER {self.annotations}"]

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them: Visual Genome's only where a split needs them."""
        images, folders = "COCO train2014 and val2014", "mscoco_imgfeat"
        files = ["train2014_obj36.tsv", "val2014_obj36.tsv"]
        if GENOME_SPLIT in (*self.train, *self.evaluate):
            images, folders = f"{images} and of Visual Genome", f"{folders} and vg_gqa_imgfeat"
            files.append("vg_gqa_obj36.tsv")
        return [
            f"Get LXMERT's features of {images}, 36 boxes per image ({folders}), then:",
            self.features_command("lxmert-tsv", *files, extractor="bua-caffe", boxes="36"),
        ]


class RositaPretrainingConfig(DatasetConfig):
    """ROSITA's pre-training texts with their scene graphs: its own four sets, and images that are left out of them."""

    known_splits = (*ROSITA_SETS, ROSITA_HELD_OUT)

    def annotations_remedy(self) -> list[str]:
        """What to download, and the commands that make our files from it."""
        build = f"runner data build {self.name} --from"
        return [
            f"{ROSITA_OBTAIN}. Then:",
            f"{build} rosita FOLDER {self.annotations}",
            f"{build} word-vectors glove.840B.300d.txt {self.annotations}",
        ]

    def features_remedy(self) -> list[str]:
        """Which features fit, and the command that imports them."""
        return [
            "Get ROSITA's features of COCO, Visual Genome, Conceptual Captions and SBU, 36 boxes per image (folders "
            "*_bua_r101_fix36 with npz_files), into one folder, then:",
            self.features_command("rosita-pretraining", "FOLDER", extractor="bua-caffe", boxes="36"),
        ]
