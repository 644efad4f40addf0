"""What this plugin registers: the task and the dataset ``nlvr2``, its metric, and the files its scorer takes."""

from __future__ import annotations

from vlrun import Builder, DemoSource, Download, Entry, SubmissionFormat, hookimpl
from vlrun_nlvr2.downloads import DOWNLOADS
from vlrun_nlvr2.sources import LXMERT_FILES, OBTAIN

TARGET = "statement"
SUBMISSION_SPLITS = {
    "dev": "development set",
    "test1": "test-P, the public test set",
    "test2": "test-U, unreleased until 2022",
}

SIZES = {"dev": 6_982, "test1": 6_967, "test2": 6_970}
"""Published numbers of statements."""


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task ``nlvr2``."""
    return [
        Entry(
            name="nlvr2",
            summary="Is a statement about two images true? (Suhr et al. 2019)",
            config="vlrun_nlvr2.config:Nlvr2TaskConfig",
            factory="vlrun_nlvr2.task:Nlvr2Task",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """Registers the dataset ``nlvr2`` with its builders."""
    return [
        Entry(
            name="nlvr2",
            summary="NLVR2 (Suhr et al. 2019): 107,292 statements about pairs of photographs",
            config="vlrun_nlvr2.config:Nlvr2Config",
            factory="vlrun_nlvr2.dataset:Statements",
            target=TARGET,
            record="vlrun_nlvr2.records:ImagePairStatement",
            builders=(
                Builder(
                    source="official",
                    summary="folder with train.json, dev.json, test1.json, test2.json (nlvr2/data of the authors' "
                    "repository)",
                    function="vlrun_nlvr2.build:build_official",
                ),
                Builder(
                    source="lxmert",
                    summary=f"folder with {', '.join(LXMERT_FILES.values())} as LXMERT has them",
                    function="vlrun_nlvr2.build:build_lxmert",
                ),
            ),
            obtain=OBTAIN,
        )
    ]


@hookimpl
def vlrun_metrics() -> list[Entry]:
    """Registers accuracy and consistency."""
    return [
        Entry(
            name="nlvr2-accuracy",
            summary="Share of right statements, and of sentences right for all their image pairs, in percent",
            config="vlrun_nlvr2.config:Nlvr2AccuracyConfig",
            factory="vlrun_nlvr2.metric:Nlvr2Accuracy",
            target=TARGET,
        )
    ]


@hookimpl
def vlrun_submissions() -> list[SubmissionFormat]:
    """Registers the official scorer's file for each split with a score."""
    return [
        SubmissionFormat(
            name=f"nlvr2-{split}",
            dataset="nlvr2",
            splits=(split,),
            summary=f"lines 'identifier,True' or 'identifier,False' for {what}",
            reader="vlrun_nlvr2.submission:read_submission",
            id_reader="vlrun_nlvr2.source_files:read_identifiers",
            sizes=SIZES,
        )
        for split, what in SUBMISSION_SPLITS.items()
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Registers statements about pairs of images, which the demo's world makes for them."""
    return [
        DemoSource(
            name="nlvr2",
            provider="world",
            image_set="nlvr2",
            images="vlrun_nlvr2.demo.pairs:pair_images",
            builder="official",
            writer="vlrun_nlvr2.demo.files:write_nlvr2",
            epochs=15,
            learning_rate=4e-4,  # at more, some networks never learn to tell two images apart
        )
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)
