"""The hooks of vlrun. Each returns light declarations; a plugin implements the hooks that it has something for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vlrun.plugins.downloads import Download
    from vlrun.plugins.entries import (
        Command,
        DemoEntry,
        DemoSource,
        Entry,
        FeatureFormat,
        SubmissionFormat,
        WeightFormat,
    )

hookspec = pluggy.HookspecMarker("vlrun")
hookimpl = pluggy.HookimplMarker("vlrun")


@hookspec
def vlrun_backbones() -> list[Entry]:  # type: ignore[empty-body]
    """Backbones; ``config`` derives from BackboneConfig, ``factory(config)`` returns a Backbone."""


@hookspec
def vlrun_tasks() -> list[Entry]:  # type: ignore[empty-body]
    """Tasks; ``config`` derives from TaskConfig, ``factory(config)`` returns a Task; ``target`` says what it learns."""


@hookspec
def vlrun_datasets() -> list[Entry]:  # type: ignore[empty-body]
    """Datasets; ``config`` derives from DatasetConfig, ``factory(config, split)`` returns a Dataset."""


@hookspec
def vlrun_metrics() -> list[Entry]:  # type: ignore[empty-body]
    """Metrics; ``config`` derives from MetricConfig, ``factory(config)`` returns a Metric."""


@hookspec
def vlrun_reporters() -> list[Entry]:  # type: ignore[empty-body]
    """Reporters; ``config`` derives from ReporterConfig, ``factory(config)`` returns a Reporter."""


@hookspec
def vlrun_optimizers() -> list[Entry]:  # type: ignore[empty-body]
    """Optimisers; ``config`` derives from OptimizerConfig, ``factory(config, groups)`` returns a torch Optimizer over
    parameter groups as torch has them; what ``config`` says holds where a group does not say otherwise."""


@hookspec
def vlrun_schedules() -> list[Entry]:  # type: ignore[empty-body]
    """Schedules; ``config`` derives from ScheduleConfig, ``factory(config, length)`` returns the learning rate as a
    pure function of the step, counted from 0; ``length`` is a TrainingLength."""


@hookspec
def vlrun_callbacks() -> list[Entry]:  # type: ignore[empty-body]
    """Callbacks, called around the steps of a training; ``config`` derives from CallbackConfig, ``factory(config)``
    returns a Callback."""


@hookspec
def vlrun_detectors() -> list[Entry]:  # type: ignore[empty-body]
    """Detectors, for photographs; ``config`` derives from DetectorConfig, ``factory(config)`` returns a
    Detector."""


@hookspec
def vlrun_feature_formats() -> list[FeatureFormat]:  # type: ignore[empty-body]
    """Importers of region-feature files, for ``runner features build --from NAME``."""


@hookspec
def vlrun_weight_formats() -> list[WeightFormat]:  # type: ignore[empty-body]
    """Translators of foreign checkpoints, for ``runner weights import --from NAME``."""


@hookspec
def vlrun_submissions() -> list[SubmissionFormat]:  # type: ignore[empty-body]
    """Formats of files that evaluation servers take, for ``runner submit-check --for NAME``."""


@hookspec
def vlrun_downloads() -> list[Download]:  # type: ignore[empty-body]
    """Files that others publish and what is made of them, for ``runner data get`` and ``runner data prepare``."""


@hookspec
def vlrun_demo_data() -> list[DemoEntry]:  # type: ignore[empty-body]
    """Worlds of embedded demo data, for ``--demo``: images, features and a vocabulary."""


@hookspec
def vlrun_demo_sources() -> list[DemoSource]:  # type: ignore[empty-body]
    """What is said of such a world's images, for the datasets of this plugin, in their official file formats."""


@hookspec
def vlrun_commands() -> list[Command]:  # type: ignore[empty-body]
    """Verbs of ``runner``; the module of a verb is imported only when the verb is used."""
