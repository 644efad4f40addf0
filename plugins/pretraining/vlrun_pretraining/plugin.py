"""What this plugin registers: the task ``pretrain``, the datasets ``coco-captions``, ``lxmert-pretraining``
and ``rosita-pretraining``."""

from __future__ import annotations

from vlrun import Builder, DemoSource, Download, Entry, FeatureFormat, hookimpl
from vlrun_pretraining.downloads import DOWNLOADS
from vlrun_pretraining.sources import LXMERT_OBTAIN, OBTAIN, OFFICIAL_FILES, ROSITA_FEATURES, ROSITA_OBTAIN

TARGET = "caption"


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Pre-training."""
    return [
        Entry(
            name="pretrain",
            summary="Pre-training: matching, masked words, masked regions and their classes, answers, topics",
            config="vlrun_pretraining.config:PretrainConfig",
            factory="vlrun_pretraining.task:PretrainTask",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """COCO's captions, and the texts of LXMERT's and ROSITA's pre-training."""
    names = ", ".join(file.name for file in OFFICIAL_FILES.values())
    return [
        Entry(
            name="coco-captions",
            summary="COCO captions (Chen et al. 2015) with the splits of 2014: 123,287 images, five or "
            "more captions each",
            config="vlrun_pretraining.config:CocoCaptionsConfig",
            factory="vlrun_pretraining.dataset:CocoCaptions",
            target=TARGET,
            record="vlrun_pretraining.records:CocoCaption",
            builders=(
                Builder(
                    source="official",
                    summary=f"folder with {names}",
                    function="vlrun_pretraining.build:build_official",
                ),
            ),
            obtain=OBTAIN,
        ),
        Entry(
            name="lxmert-pretraining",
            summary="Captions and questions of LXMERT's pre-training (Tan and Bansal 2019), with answers",
            config="vlrun_pretraining.config:LxmertPretrainingConfig",
            factory="vlrun_pretraining.dataset:LxmertTexts",
            target=TARGET,
            record="vlrun_pretraining.records:LxmertText",
            builders=(
                Builder(
                    source="lxmert",
                    summary="the authors' folder data/lxmert: mscoco_train.json and its like, all_ans.json",
                    function="vlrun_pretraining.build_lxmert:build_lxmert",
                ),
            ),
            obtain=LXMERT_OBTAIN,
        ),
        Entry(
            name="rosita-pretraining",
            summary="Captions and questions of ROSITA's pre-training (Cui et al. 2021) with their scene graphs",
            config="vlrun_pretraining.config:RositaPretrainingConfig",
            factory="vlrun_pretraining.dataset:RositaTexts",
            target=TARGET,
            record="vlrun_pretraining.records:GraphedText",
            builders=(
                Builder(
                    source="rosita",
                    summary="the authors' folder of annotations: pt-coco/pt_coco_annotations_train.tsv and its like, "
                    "with genome_vocabs/objects_vocab.txt in it or beside it",
                    function="vlrun_pretraining.build_rosita:build_rosita",
                ),
                Builder(
                    source="word-vectors",
                    summary="a text file of word vectors (GloVe, fastText), for annotations that are built already",
                    function="vlrun_pretraining.rosita.word_vectors:build_word_vectors",
                    reads_output=True,
                ),
            ),
            obtain=ROSITA_OBTAIN,
        ),
    ]


@hookimpl
def vlrun_feature_formats() -> list[FeatureFormat]:
    """The four folders of ROSITA's pre-training at once."""
    return [
        FeatureFormat(
            name="rosita-pretraining",
            summary=f"folder with {', '.join(ROSITA_FEATURES.values())}",
            opener="vlrun_pretraining.feature_folders:RositaFolders",
            recogniser="vlrun_pretraining.feature_folders:is_rosita_folders",
        )
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Captions of the demo's images, and questions about them, for each dataset."""
    return [
        DemoSource(
            name=name,
            provider="world",
            image_set="pretraining",
            builder=builder,
            writer=f"vlrun_pretraining.demo.{writer}",
            epochs=epochs,
            learning_rate=1e-3,  # at less, matching has hardly begun when the minutes are over
        )
        for name, builder, writer, epochs in (
            ("coco-captions", "official", "coco_captions:write_coco_captions", 12),
            ("lxmert-pretraining", "lxmert", "lxmert:write_lxmert_pretraining", 12),
            ("rosita-pretraining", "rosita", "rosita:write_rosita_pretraining", 4),
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
