"""What this plugin registers: the task ``gqa``, its dataset, its metric and the files that its server takes."""

from __future__ import annotations

from vlrun import Builder, DemoSource, Download, Entry, SubmissionFormat, hookimpl
from vlrun_gqa.downloads import DOWNLOADS
from vlrun_gqa.sources import OFFICIAL_OBTAIN, SUBMISSION_FILE

TARGET = "gqa-answer"
PHASES = {
    "gqa-submission": (
        ("submission",),
        "all of submission_all_questions.json: what the evaluation server takes, for every phase",
    ),
    "gqa-testdev": (("testdev", "testdev_all"), "testdev, which the official evaluator scores"),
    "gqa-valid": (("valid", "valid_all"), "valid, which the official evaluator scores"),
}

SIZES = {"testdev": 12_578, "testdev_all": 172_174, "valid": 132_062, "valid_all": 2_011_853}
"""Published numbers of questions (version 1.2)."""


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task ``gqa``."""
    return [
        Entry(
            name="gqa",
            summary="Answer a compositional question about an image",
            config="vlrun_gqa.config:GqaConfig",
            factory="vlrun_gqa.task:GqaTask",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """Registers the dataset ``gqa`` with its builders."""
    return [
        Entry(
            name="gqa",
            summary="GQA (Hudson and Manning 2019): 1.2 million balanced questions, 22 million in all",
            config="vlrun_gqa.config:GqaDatasetConfig",
            factory="vlrun_gqa.dataset:GqaQuestions",
            target=TARGET,
            record="vlrun_gqa.records:GqaQuestion",
            builders=(
                Builder(
                    source="official",
                    summary="folder with some of {train,val,testdev,...}_{balanced,all}_questions.json, and "
                    "val_choices.json",
                    function="vlrun_gqa.build:build_official",
                ),
                Builder(
                    source="lxmert",
                    summary="folder with some of LXMERT's train, valid, testdev, submit and trainval_label2ans .json",
                    function="vlrun_gqa.build:build_lxmert",
                ),
            ),
            obtain=OFFICIAL_OBTAIN,
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry]:
    """Registers the scores of the official evaluator."""
    return [
        Entry(
            name="gqa-accuracy",
            summary="Accuracy, consistency, validity, plausibility and distribution of GQA's evaluator",
            config="vlrun_gqa.config:GqaAccuracyConfig",
            factory="vlrun_gqa.metric:GqaAccuracy.from_config",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_submissions() -> list[SubmissionFormat]:
    """Registers the files that the evaluation server and the official evaluator take."""
    return [
        SubmissionFormat(
            name=name,
            dataset="gqa",
            splits=splits,
            summary=f"{SUBMISSION_FILE} for {use}",
            reader="vlrun_gqa.submission:read_submission",
            id_reader="vlrun_gqa.submission:official_ids",
            sizes=SIZES,
        )
        for name, (splits, use) in PHASES.items()
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Registers questions with programs about the demo's images."""
    return [
        DemoSource(
            name="gqa",
            provider="world",
            image_set="gqa",
            builder="official",
            writer="vlrun_gqa.demo.files:write_gqa",
            epochs=10,
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
