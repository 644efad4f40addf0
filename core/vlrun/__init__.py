"""The public names, for plugin authors. Importing this loads no torch; names that need it load when first used."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vlrun.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    PluginError,
    RequiredFile,
    RunnerError,
    UsageError,
    first_few,
)
from vlrun.features.origin import FeatureOrigin
from vlrun.plugins.downloads import Download, RemoteFile
from vlrun.plugins.entries import (
    Builder,
    BuildReport,
    Command,
    DemoEntry,
    DemoSource,
    Entry,
    FeatureFormat,
    SubmissionFormat,
    SubmissionRows,
    WeightFormat,
)
from vlrun.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from vlrun.blocks.answering_config import AnsweringConfig
    from vlrun.blocks.transformer_config import (
        SingleStreamConfig,
        TextTransformerConfig,
        TransformerConfig,
        TransformerSizes,
    )
    from vlrun.config.base import (
        BackboneConfig,
        Config,
        DataPath,
        DatasetConfig,
        MetricConfig,
        NamedOptions,
        OptimizerConfig,
        ReporterConfig,
        ScheduleConfig,
        TaskConfig,
    )
    from vlrun.config.callbacks import CallbackConfig
    from vlrun.config.detectors import DetectorConfig
    from vlrun.config.experiment import Experiment, load_experiment
    from vlrun.data.identities import image_key
    from vlrun.engine.weight_files import read_imported as read_weights
    from vlrun.features.store import RegionFeatureStore
    from vlrun.foreign.pickled_arrays import read_pickle as read_pickled_arrays
    from vlrun.interfaces.backbone import Backbone, PairEncoder, PairNetwork, Vocabulary
    from vlrun.interfaces.callback import Callback
    from vlrun.interfaces.cases import Case, View
    from vlrun.interfaces.dataset import Dataset
    from vlrun.interfaces.demo_provider import (
        DemoFiles,
        DemoImage,
        DemoImageRequest,
        DemoObject,
        DemoProvider,
        DemoRelation,
    )
    from vlrun.interfaces.detector import Detector
    from vlrun.interfaces.examples import (
        Answers,
        Example,
        Pair,
        Prediction,
        Referent,
        RegionBatch,
        RegionFeatures,
        Score,
        canonical_image_id,
    )
    from vlrun.interfaces.heads import NamedHead
    from vlrun.interfaces.masking import Unmasked
    from vlrun.interfaces.measurement import Baseline, ByTurns, Measurement
    from vlrun.interfaces.metric import Metric
    from vlrun.interfaces.pictures import PictureShape
    from vlrun.interfaces.question import Answer, Choice, Question, RegionAttention
    from vlrun.interfaces.reporter import EvaluationReport, Outcome, Reporter, ResultRow, RunInfo, StepReport
    from vlrun.interfaces.run_view import RanksView, RunView
    from vlrun.interfaces.task import Task
    from vlrun.interfaces.tensors import BackboneOutput, Batch, Encoding, full_precision
    from vlrun.interfaces.training import TrainingLength, TrainingPass, TrainingStep
    from vlrun.interfaces.uncertainty import Units, error_by_resampling, error_of_mean
    from vlrun.runs.ask import LoadedRun, load_run
    from vlrun.runs.networks import TrainedNetwork, load_network
    from vlrun.runs.run import run_experiment

_HOMES = {
    "AnsweringConfig": "blocks.answering_config",
    "Answer": "interfaces.question",
    "Answers": "interfaces.examples",
    "Backbone": "interfaces.backbone",
    "BackboneConfig": "config.base",
    "BackboneOutput": "interfaces.tensors",
    "Baseline": "interfaces.measurement",
    "Batch": "interfaces.tensors",
    "ByTurns": "interfaces.measurement",
    "Callback": "interfaces.callback",
    "CallbackConfig": "config.callbacks",
    "Case": "interfaces.cases",
    "Choice": "interfaces.question",
    "Config": "config.base",
    "DataPath": "config.base",
    "Dataset": "interfaces.dataset",
    "DatasetConfig": "config.base",
    "DemoFiles": "interfaces.demo_provider",
    "DemoImage": "interfaces.demo_provider",
    "DemoImageRequest": "interfaces.demo_provider",
    "DemoObject": "interfaces.demo_provider",
    "DemoProvider": "interfaces.demo_provider",
    "DemoRelation": "interfaces.demo_provider",
    "Detector": "interfaces.detector",
    "DetectorConfig": "config.detectors",
    "Encoding": "interfaces.tensors",
    "EvaluationReport": "interfaces.reporter",
    "Example": "interfaces.examples",
    "Experiment": "config.experiment",
    "LoadedRun": "runs.ask",
    "Measurement": "interfaces.measurement",
    "Metric": "interfaces.metric",
    "MetricConfig": "config.base",
    "NamedHead": "interfaces.heads",
    "NamedOptions": "config.base",
    "OptimizerConfig": "config.base",
    "ScheduleConfig": "config.base",
    "TrainedNetwork": "runs.networks",
    "TrainingLength": "interfaces.training",
    "TrainingPass": "interfaces.training",
    "TrainingStep": "interfaces.training",
    "Outcome": "interfaces.reporter",
    "Pair": "interfaces.examples",
    "PairEncoder": "interfaces.backbone",
    "PairNetwork": "interfaces.backbone",
    "PictureShape": "interfaces.pictures",
    "Prediction": "interfaces.examples",
    "Referent": "interfaces.examples",
    "Question": "interfaces.question",
    "RegionAttention": "interfaces.question",
    "RegionBatch": "interfaces.examples",
    "RegionFeatureStore": "features.store",
    "RegionFeatures": "interfaces.examples",
    "RanksView": "interfaces.run_view",
    "Reporter": "interfaces.reporter",
    "ReporterConfig": "config.base",
    "ResultRow": "interfaces.reporter",
    "RunInfo": "interfaces.reporter",
    "RunView": "interfaces.run_view",
    "Score": "interfaces.examples",
    "SingleStreamConfig": "blocks.transformer_config",
    "StepReport": "interfaces.reporter",
    "Task": "interfaces.task",
    "TaskConfig": "config.base",
    "TextTransformerConfig": "blocks.transformer_config",
    "TransformerConfig": "blocks.transformer_config",
    "TransformerSizes": "blocks.transformer_config",
    "Units": "interfaces.uncertainty",
    "Unmasked": "interfaces.masking",
    "View": "interfaces.cases",
    "Vocabulary": "interfaces.backbone",
    "canonical_image_id": "interfaces.examples",
    "error_by_resampling": "interfaces.uncertainty",
    "error_of_mean": "interfaces.uncertainty",
    "full_precision": "interfaces.tensors",
    "image_key": "data.identities",
    "load_experiment": "config.experiment",
    "load_network": "runs.networks",
    "load_run": "runs.ask",
    "read_pickled_arrays": "foreign.pickled_arrays:read_pickle",
    "read_weights": "engine.weight_files:read_imported",
    "run_experiment": "runs.run",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("vlrun")
    if name in _HOMES:
        module, _, called = _HOMES[name].partition(":")
        return getattr(import_module(f"vlrun.{module}"), called or name)
    raise AttributeError(f"module 'vlrun' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Answer",
    "AnsweringConfig",
    "Answers",
    "Backbone",
    "BackboneConfig",
    "BackboneOutput",
    "Baseline",
    "Batch",
    "BuildReport",
    "Builder",
    "ByTurns",
    "Callback",
    "CallbackConfig",
    "Case",
    "CheckpointError",
    "Choice",
    "Command",
    "Config",
    "ConfigError",
    "DataError",
    "DataPath",
    "Dataset",
    "DatasetConfig",
    "DemoEntry",
    "DemoFiles",
    "DemoImage",
    "DemoImageRequest",
    "DemoObject",
    "DemoProvider",
    "DemoRelation",
    "DemoSource",
    "Detector",
    "DetectorConfig",
    "Download",
    "Encoding",
    "Entry",
    "EvaluationReport",
    "Example",
    "Experiment",
    "FeatureFormat",
    "FeatureOrigin",
    "LoadedRun",
    "Measurement",
    "Metric",
    "MetricConfig",
    "NamedHead",
    "NamedOptions",
    "OptimizerConfig",
    "Outcome",
    "Pair",
    "PairEncoder",
    "PairNetwork",
    "PictureShape",
    "PluginError",
    "Prediction",
    "Question",
    "RanksView",
    "Referent",
    "RegionAttention",
    "RegionBatch",
    "RegionFeatureStore",
    "RegionFeatures",
    "RemoteFile",
    "Reporter",
    "ReporterConfig",
    "RequiredFile",
    "ResultRow",
    "RunInfo",
    "RunView",
    "RunnerError",
    "ScheduleConfig",
    "Score",
    "SingleStreamConfig",
    "StepReport",
    "SubmissionFormat",
    "SubmissionRows",
    "Task",
    "TaskConfig",
    "TextTransformerConfig",
    "TrainedNetwork",
    "TrainingLength",
    "TrainingPass",
    "TrainingStep",
    "TransformerConfig",
    "TransformerSizes",
    "Units",
    "Unmasked",
    "UsageError",
    "View",
    "Vocabulary",
    "WeightFormat",
    "canonical_image_id",
    "error_by_resampling",
    "error_of_mean",
    "first_few",
    "full_precision",
    "hookimpl",
    "image_key",
    "load_experiment",
    "load_network",
    "load_run",
    "read_pickled_arrays",
    "read_weights",
    "run_experiment",
]
