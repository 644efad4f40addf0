"""What plugin authors import. Importing it loads no torch; the names that need torch load when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlrun.entries import Builder, BuildReport, Entry, SubmissionFormat, SubmissionRows, WeightFormat
from vlrun.errors import CheckpointError, ConfigError, DataError, PluginError, RunnerError
from vlrun.hookspecs import hookimpl

if TYPE_CHECKING:
    from vlrun.backbone import Backbone, PairEncoder
    from vlrun.configs import (
        AnsweringConfig,
        BackboneConfig,
        Config,
        DataPath,
        DatasetConfig,
        DemoFiles,
        MatchingConfig,
        MetricConfig,
        NamedOptions,
        ReporterConfig,
        RequiredFile,
        TaskConfig,
    )
    from vlrun.dataset import Dataset
    from vlrun.demo import DemoProvider
    from vlrun.examples import (
        Example,
        Pair,
        Prediction,
        RegionBatch,
        RegionFeatures,
        Score,
        canonical_image_id,
    )
    from vlrun.experiment import Experiment, load_experiment
    from vlrun.features.formats import FeatureFormat
    from vlrun.features.store import RegionFeatureStore
    from vlrun.metric import Metric
    from vlrun.reporting import Reporter
    from vlrun.runs import run_experiment
    from vlrun.targets import Answers, Referent
    from vlrun.task import Task
    from vlrun.tensors import BackboneOutput, Batch, Encoding

__version__ = "0.3.0"

_HOMES = {
    "AnsweringConfig": "configs",
    "Answers": "targets",
    "Backbone": "backbone",
    "BackboneConfig": "configs",
    "BackboneOutput": "tensors",
    "Batch": "tensors",
    "Config": "configs",
    "DataPath": "configs",
    "Dataset": "dataset",
    "DatasetConfig": "configs",
    "DemoFiles": "configs",
    "DemoProvider": "demo",
    "Encoding": "tensors",
    "Example": "examples",
    "Experiment": "experiment",
    "FeatureFormat": "features.formats",
    "MatchingConfig": "configs",
    "Metric": "metric",
    "MetricConfig": "configs",
    "NamedOptions": "configs",
    "Pair": "examples",
    "PairEncoder": "backbone",
    "Prediction": "examples",
    "Referent": "targets",
    "RegionBatch": "examples",
    "RegionFeatureStore": "features.store",
    "RegionFeatures": "examples",
    "Reporter": "reporting",
    "ReporterConfig": "configs",
    "RequiredFile": "configs",
    "Score": "examples",
    "Task": "task",
    "TaskConfig": "configs",
    "canonical_image_id": "examples",
    "load_experiment": "experiment",
    "run_experiment": "runs",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"vlrun.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlrun' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AnsweringConfig",
    "Answers",
    "Backbone",
    "BackboneConfig",
    "BackboneOutput",
    "Batch",
    "BuildReport",
    "Builder",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "DataPath",
    "Dataset",
    "DatasetConfig",
    "DemoFiles",
    "DemoProvider",
    "Encoding",
    "Entry",
    "Example",
    "Experiment",
    "FeatureFormat",
    "MatchingConfig",
    "Metric",
    "MetricConfig",
    "NamedOptions",
    "Pair",
    "PairEncoder",
    "PluginError",
    "Prediction",
    "Referent",
    "RegionBatch",
    "RegionFeatureStore",
    "RegionFeatures",
    "Reporter",
    "ReporterConfig",
    "RequiredFile",
    "RunnerError",
    "Score",
    "SubmissionFormat",
    "SubmissionRows",
    "Task",
    "TaskConfig",
    "WeightFormat",
    "canonical_image_id",
    "hookimpl",
    "load_experiment",
    "run_experiment",
]
