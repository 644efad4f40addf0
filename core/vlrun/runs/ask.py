"""Asking the model of a finished run: one question at a time, without annotations and on one process."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vlrun.config.experiment import Experiment, Layer, load_experiment
from vlrun.data.coverage import Coverage
from vlrun.data.loading import shown_regions
from vlrun.engine.assembly import build_network
from vlrun.engine.evaluation import TaskView
from vlrun.engine.launch import StopRequest
from vlrun.engine.model import TaskModel, WithoutRandomNumbers, check_precision
from vlrun.engine.ranks import Ranks, choose_device
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.run_folder import RunFolder, open_run_folder
from vlrun.errors import CheckpointError, ConfigError, DataError, UsageError, first_few
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.backbone import PairEncoder
from vlrun.interfaces.examples import Pair, RegionBatch, RegionFeatures, canonical_image_id
from vlrun.interfaces.question import Answer, Question
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.again import chosen_tasks, load_checkpoint

Image = str | Path | RegionFeatures
"""The id of an image with stored features, a photograph for the detector, or the features of one."""

PhotographReader = Callable[[Path], RegionFeatures]
"""Finds the regions of a photograph, as a detector does."""

TOP = 5
_SHOWN_TEXT, _SHOWN_IDS = 60, 5


def load_run(
    path: str | Path,
    checkpoint: str = "best",
    *,
    task: str | None = None,
    overrides: Sequence[str] = (),
    detector: PhotographReader | None = None,
    plugins: Plugins | None = None,
) -> LoadedRun:
    """Opens a run for questions: its model, and the store of its region features; no annotations.

    Args:
        path: a run folder, or ``runs/<experiment>`` for its newest run.
        checkpoint: ``best`` (the task's own best), ``last``, or the path of a checkpoint folder.
        task: label of the task of a joint run; None for the only or the first one.
        overrides: ``key.path=value``, laid over the run's configuration.
        detector: what makes region features of photographs; without it only images with features can be asked about.

    Raises:
        UsageError: there is no such task.
        CheckpointError: there is no such checkpoint, or it does not fit.
        DataError: files that the model is built from, such as a vocabulary, are missing.
    """
    plugins = plugins or create_plugins()
    folder = open_run_folder(Path(path))
    trained = load_experiment(folder.config, overrides, plugins=plugins)
    values = {"train.epochs": 0, **({"backbone.weights": None} if trained.train.epochs else {})}
    layer = Layer("load_run", values)  # a trained run has its weights in the checkpoint
    experiment = load_experiment(folder.config, overrides, plugins=plugins, layers=[layer])
    needed = [experiment.backbone.required_files(), *(config.required_files() for config in experiment.tasks)]
    if missing := [file for files in needed for file in files if not file.path.exists()]:
        raise DataError([f"missing {file.path} ({file.purpose}): {file.remedy}" for file in missing])
    if trained.train.epochs and not folder.checkpoints.is_dir():
        raise CheckpointError(f"{folder.path}: there is no checkpoint yet, so there is no model to ask")
    run = _assembled(experiment, folder, plugins)
    task_run = chosen_tasks(run, [task] if task else [])[0]
    name = load_checkpoint(run, checkpoint, task_run)
    run.model.eval()
    return LoadedRun(run, task_run, name, detector)


@dataclass
class LoadedRun:
    """A finished run that answers questions.

    Attributes:
        checkpoint: how results call the weights.
        detector: what makes region features of photographs, if anything does.
    """

    run: Run
    task_run: TaskRun
    checkpoint: str
    detector: PhotographReader | None = None

    def ask(self, text: str | Sequence[str], image: Image | Sequence[Image], *, top: int = TOP) -> Answer:
        """What the model says about an image, or about several.

        Args:
            text: a question, statement, expression or caption; several captions where the task ranks them.
            image: the id of an image with stored features, a ``Path`` of a photograph, or ``RegionFeatures``; several
                where the task takes them.
            top: how many choices are wanted, best first.

        Raises:
            UsageError: the task takes another number of images or texts, or a text is empty or too long for it.
            DataError: an image has no features, or a photograph cannot be read.
        """
        question, regions = self.question(text, image)
        sizes = tuple((int(width), int(height)) for height, width in regions.read(question.image_ids).sizes)
        answer = self.task_run.task.ask(question, QuestionView(self.run, self.task_run, StopRequest(), regions))
        return Answer(question, answer.choices[:top], sizes)

    def question(self, text: str | Sequence[str], image: Image | Sequence[Image]) -> tuple[Question, AskedRegions]:
        """The question as the task gets it, and where its regions are; raises what ``ask`` raises."""
        texts = (text,) if isinstance(text, str) else tuple(text)
        images = [image] if isinstance(image, str | Path | RegionFeatures) else list(image)
        ids = [canonical_image_id(each) if isinstance(each, str) else "" for each in images]
        task = f"task '{self.task_run.name}'"
        if problems := self.task_run.task.check_question(Question(texts, tuple(ids))):
            raise UsageError(f"{task}: {'; '.join(problems)}")
        given = {}
        for number, each in enumerate(images):
            if not isinstance(each, str):
                features = self._features(each)
                name = features.image_id
                ids[number] = f"{name} ({number + 1})" if name in ids else name  # of two folders, say
                given[ids[number]] = features
        question, regions = Question(texts, tuple(ids)), AskedRegions(self.store, given)
        if unknown := [name for name in dict.fromkeys(question.image_ids) if name not in regions]:
            raise DataError(
                [*(self._unknown(name) for name in unknown[:_SHOWN_IDS]), *first_few(unknown, _SHOWN_IDS)[_SHOWN_IDS:]]
            )
        if problems := self._problems_of_texts(question, regions):
            raise UsageError(f"{task}: {'; '.join(problems)}")
        return question, regions

    @property
    def name(self) -> str:
        """What the experiment calls the task."""
        return self.task_run.name

    def image_ids(self) -> list[str]:
        """All images with stored features."""
        return [] if self.store is None else self.store.image_ids()

    def features(self, image_id: str) -> RegionFeatures:
        """The stored features of an image.

        Raises:
            DataError: it has none.
        """
        if self.store is None or image_id not in self.store:
            raise DataError(self._unknown(image_id))
        return self.store[image_id]

    @property
    def asked_images(self) -> int | None:
        """How many images a question has; None: one or more."""
        return self.task_run.task.asked_images

    @property
    def asked_texts(self) -> int | None:
        """How many texts a question has; None: one or more."""
        return self.task_run.task.asked_texts

    @cached_property
    def store(self) -> RegionFeatureStore | None:
        """The region features of the run's images; None if they are not there any more."""
        path = self.task_run.config.dataset.features
        return RegionFeatureStore(path) if path.exists() else None

    def _features(self, image: Path | RegionFeatures) -> RegionFeatures:
        if isinstance(image, RegionFeatures):
            return image
        if self.detector is None:
            raise UsageError(
                f"{image}: regions of a photograph come from a detector, and this run was opened without one; "
                "ask about an image with stored features by its id"
            )
        return self.detector(image)

    def _problems_of_texts(self, question: Question, regions: AskedRegions) -> list[str]:
        if not all(text.strip() for text in question.texts):
            return ["the text is empty"]
        if self._longer is None:
            return []
        image_id, most = question.image_ids[0], self.task_run.config.max_text_tokens
        one = regions.read([image_id])
        return [
            f"the text '{_short(text)}' has more than the {most} tokens that the model sees (max_text_tokens)"
            for text in question.texts
            if int(self._longer([Pair(text, image_id)], one).text_mask.sum()) > most
        ]

    @cached_property
    def _longer(self) -> PairEncoder | None:
        """An encoder that takes one token more, by which a text that is too long is known; None where none can."""
        try:
            return self.run.model.backbone.pair_encoder(self.task_run.config.max_text_tokens + 1)
        except ConfigError:
            return None

    def _unknown(self, image_id: str) -> str:
        if self.store is None:
            path = self.task_run.config.dataset.features
            return f"image '{image_id}': the run's region features, {path}, are not there"
        known = self.store.image_ids()
        near = self.store.find_same_image(image_id) or next(iter(difflib.get_close_matches(image_id, known, 1)), None)
        hint = f"; did you mean '{near}'?" if near else f"; there is, for instance, '{known[0]}'" if known else ""
        return f"image '{image_id}' has no region features in {self.store.path} ({len(known):,} images){hint}"


@dataclass(frozen=True)
class AskedRegions:
    """The regions of a question: those that came with it, and for other images those of a store."""

    store: RegionFeatureStore | None
    given: Mapping[str, RegionFeatures]

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.given or (self.store is not None and image_id in self.store)

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        """The regions of P images, padded to the largest number of them."""
        if not self.given and self.store is not None:
            return self.store.read(image_ids)
        images = [self[image_id] for image_id in image_ids]
        shape = (len(images), max(len(image.boxes) for image in images))
        features = np.zeros((*shape, images[0].features.shape[1]), np.result_type(*(each.features for each in images)))
        boxes, mask = np.zeros((*shape, 4), np.float32), np.zeros(shape, bool)
        for row, image in enumerate(images):
            count = len(image.boxes)
            features[row, :count], boxes[row, :count], mask[row, :count] = image.features, image.boxes, True
        sizes = np.array([(image.height, image.width) for image in images], np.float32)
        return RegionBatch(tuple(image_ids), features, boxes, mask, sizes)

    def __getitem__(self, image_id: str) -> RegionFeatures:
        if image_id in self.given or self.store is None:
            return self.given[image_id]
        return self.store[image_id]


@dataclass(frozen=True)
class QuestionView(TaskView):
    """A run as a task sees it that is asked a question."""

    regions: AskedRegions

    def read_regions(self, image_ids: Sequence[str]) -> RegionBatch:
        return shown_regions(self.regions.read(image_ids), self.task.config.dataset.hide_images)


def _assembled(experiment: Experiment, folder: RunFolder, plugins: Plugins) -> Run:
    """The model of a run with all its heads, on this process alone; nothing of its data."""
    if experiment.train.threads is not None:
        torch.set_num_threads(experiment.train.threads)
    ranks = Ranks(0, 1, choose_device())
    check_precision(experiment.train.precision, ranks.device)
    # a checkpoint fills every tensor, or is refused
    with WithoutRandomNumbers() if folder.checkpoints.is_dir() else nullcontext():
        backbone, tasks, heads, report = build_network(experiment, plugins)
    runs = [
        TaskRun(
            config=config,
            task=task,
            metrics=(),
            store=_NoStore(config.dataset.features),
            encode=backbone.pair_encoder(config.max_text_tokens),
            train=None,
            splits={},
            coverage=Coverage(config.dataset.features, 0, ()),
        )
        for config, task in zip(experiment.tasks, tasks, strict=True)
    ]
    model = TaskModel(backbone, {run.name: head for run, head in zip(runs, heads, strict=True)}).to(ranks.device)
    return Run(experiment, ranks, folder, Reporters([]), model, runs, report, workers=0)


@dataclass(frozen=True)
class _NoStore:
    """Stands where a run has its store: questions bring their regions along."""

    path: Path
    fingerprint: str = ""
    extractor: str = ""

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        raise DataError(f"the regions of {', '.join(image_ids)} do not belong to a question")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
