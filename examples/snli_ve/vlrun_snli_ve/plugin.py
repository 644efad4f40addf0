"""What this plugin offers: the task, the dataset with its builder, and data for the demo."""

from __future__ import annotations

from vlrun import Builder, DemoSource, Entry, hookimpl


@hookimpl
def vlrun_tasks() -> list[Entry]:
    """Registers the task."""
    return [
        Entry(
            name="snli-ve",
            summary="Does a statement follow from an image? (Xie et al. 2019)",
            config="vlrun_snli_ve.config:EntailmentConfig",
            factory="vlrun_snli_ve.task:EntailmentTask",
            target="entailment",
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    """Registers the dataset and what builds its files."""
    return [
        Entry(
            name="snli-ve",
            summary="SNLI-VE: 565,286 statements about the images of Flickr30k",
            config="vlrun_snli_ve.config:SnliVeConfig",
            factory="vlrun_snli_ve.dataset:Statements",
            target="entailment",
            record="vlrun_snli_ve.dataset:StatementRecord",
            builders=(
                Builder(
                    source="official",
                    summary="folder with snli_ve_train.jsonl, snli_ve_dev.jsonl, snli_ve_test.jsonl",
                    function="vlrun_snli_ve.build:build_official",
                ),
            ),
            obtain="snli_ve_{train,dev,test}.jsonl, made as https://github.com/necla-ml/SNLI-VE says",
        )
    ]


@hookimpl
def vlrun_demo_sources() -> list[DemoSource]:
    """Registers statements about the demo's images, so that the task trains there beside any other."""
    return [
        DemoSource(
            name="snli-ve",
            provider="world",
            image_set="flickr",
            builder="official",
            writer="vlrun_snli_ve.demo:write_statements",
            epochs=6,
            learning_rate=5e-4,
        )
    ]
