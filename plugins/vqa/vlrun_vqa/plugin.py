"""What this plugin registers: the task ``vqa``, the dataset ``vqav2``, its metric and the server's files."""

from __future__ import annotations

from vlrun import Builder, DemoSource, Download, Entry, SubmissionFormat, hookimpl
from vlrun_vqa.downloads import DOWNLOADS
from vlrun_vqa.sources import OBTAIN, ROSITA_FILE

TARGET = "answers"
RESULT_FILE = 'a JSON list of {"question_id": int, "answer": str}, one entry for each question'
PHASES = {
    "vqav2-test-dev": (("test-dev", "test"), "the phase Test-Dev; it takes all of test2015 too"),
    "vqav2-test": (("test",), "the phases Test-Standard and Test-Challenge"),
    "vqav2-val": (("val",), "the official evaluator on val2014"),
    "vqav2-minival": (("minival",), "the official evaluator on minival"),
}

SIZES = {"test": 447_793, "test-dev": 107_394, "val": 214_354, "minival": 25_994}
"""Published numbers of questions (visualqa.org; minival: LXMERT)."""


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task ``vqa``."""
    return [
        Entry(
            name="vqa",
            summary="Visual question answering: a question -> one of many answers",
            config="vlrun_vqa.config:VqaConfig",
            factory="vlrun_vqa.task:VqaTask",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """Registers the dataset ``vqav2`` with its builders."""
    return [
        Entry(
            name="vqav2",
            summary="VQA v2 (Goyal et al. 2017): 1.1 million questions about COCO images, ten answers each",
            config="vlrun_vqa.config:VqaV2Config",
            factory="vlrun_vqa.dataset:VqaQuestions",
            target=TARGET,
            record="vlrun_vqa.records:VqaQuestion",
            builders=(
                Builder(
                    source="official",
                    summary="folder with v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json of "
                    "some parts (or .json.gz)",
                    function="vlrun_vqa.build_official:build_official",
                ),
                Builder(
                    source="lxmert",
                    summary="folder with train.json, nominival.json, minival.json, test.json, published with LXMERT "
                    "(soft scores only)",
                    function="vlrun_vqa.build_published:build_lxmert",
                    lacks=("answers",),
                ),
                Builder(
                    source="rosita",
                    summary=f"{ROSITA_FILE}, published with ROSITA, or a folder with it",
                    function="vlrun_vqa.build_published:build_rosita",
                ),
            ),
            obtain=OBTAIN,
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry]:
    """Registers the official accuracy."""
    return [
        Entry(
            name="vqa-accuracy",
            summary="Official VQA accuracy, by answer type and question type, with the bound that the vocabulary sets",
            config="vlrun_vqa.config:VqaAccuracyConfig",
            factory="vlrun_vqa.metric:VqaAccuracy",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_submissions() -> list[SubmissionFormat]:
    """Registers a result file for each phase of the evaluation server, and for local scoring."""
    return [
        SubmissionFormat(
            name=name,
            dataset="vqav2",
            splits=splits,
            summary=f"VQA v2, {use}: {RESULT_FILE}",
            reader="vlrun_vqa.submission:read_results",
            id_reader="vlrun_vqa.submission:official_ids",
            sizes=SIZES,
        )
        for name, (splits, use) in PHASES.items()
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Registers questions about the demo's images."""
    return [
        DemoSource(
            name="vqav2",
            provider="world",
            image_set="vqa",
            builder="official",
            writer="vlrun_vqa.demo:write_vqa",
            epochs=11,
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
