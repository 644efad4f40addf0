"""Asking the model of a finished run: one question at a time, without annotations and on one process."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from vlrun.config.experiment import Experiment, Layer, load_experiment
from vlrun.data.coverage import Coverage
from vlrun.data.feature_check import stated_origin
from vlrun.data.splits import images_path, open_images
from vlrun.engine.assembly import build_network
from vlrun.engine.model import TaskModel, WithoutRandomNumbers
from vlrun.engine.precision import prepare_precision
from vlrun.engine.ranks import Ranks, choose_device
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.run_folder import RunFolder, open_run_folder
from vlrun.engine.stopping import StopRequest
from vlrun.errors import CheckpointError, ConfigError, DataError, RunnerError, UsageError, first_few
from vlrun.features.origin import FeatureOrigin, differences
from vlrun.features.pictures import ImageStore, PictureStore
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.backbone import PairEncoder
from vlrun.interfaces.detector import Detector
from vlrun.interfaces.examples import Pair, RegionBatch, RegionFeatures, canonical_image_id
from vlrun.interfaces.question import Answer, Choice, Question
from vlrun.interfaces.reporter import Reporters
from vlrun.interfaces.task import Task
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.again import chosen_tasks, load_checkpoint
from vlrun.runs.attention import region_attention
from vlrun.runs.questions import AskedRegions, QuestionView

Image = str | Path | RegionFeatures
"""The id of an image with stored features, a photograph for the detector, or the features of one."""

PhotographReader = Callable[[Path], RegionFeatures]
"""Finds the regions of a photograph, as a detector does."""

TOP = 5
_SHOWN_TEXT, _SHOWN_IDS = 60, 5
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


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

    def ask(
        self, text: str | Sequence[str], image: Image | Sequence[Image], *, top: int = TOP, attention: bool = False
    ) -> Answer:
        """What the model says about an image, or about several.

        Args:
            text: a question, statement, expression or caption; several captions where the task ranks them.
            image: the id of an image with stored features, a ``Path`` of a photograph, or ``RegionFeatures``; several
                where the task takes them.
            top: how many choices are wanted, best first.
            attention: whether the answer says which regions the text attends to, where the backbone shows it; it takes
                another forward pass.

        Raises:
            UsageError: the task takes another number of images or texts, or a text is empty or too long for it.
            DataError: an image has no features, or a photograph cannot be read.
        """
        question, regions = self.question(text, image)
        view = QuestionView(self.run, self.task_run, StopRequest(), regions)
        choices = self.task_run.task.ask(question, view).choices
        shown = region_attention(view, self._shown_pairs(question, choices[0])) if attention else ()
        return Answer(question, choices[:top], regions.image_sizes(question.image_ids), shown)

    def ask_many(
        self,
        questions: Iterable[tuple[str | Sequence[str], Image | Sequence[Image]]],
        *,
        top: int = TOP,
        batch_size: int | None = None,
    ) -> Iterator[Answer | RunnerError]:
        """What ``ask`` says to each question, a text and an image as it takes them, in order and several at a time.

        A question that cannot be asked has its error in place of an answer. Questions are answered one by one where
        the task ranks images or texts, or where they bring features along.

        Args:
            batch_size: questions in a forward pass; None: as many as the run evaluates at a time.
        """
        remaining = iter(questions)
        size = batch_size or self.run.experiment.train.evaluate_batch_size
        while asked := [self._checked(*question) for question in islice(remaining, size)]:
            yield from self._answers(asked, top)

    def _checked(
        self, text: str | Sequence[str], image: Image | Sequence[Image]
    ) -> tuple[Question, AskedRegions] | RunnerError:
        try:
            return self.question(text, image)
        except RunnerError as error:
            return error

    def _answers(
        self, asked: Sequence[tuple[Question, AskedRegions] | RunnerError], top: int
    ) -> Iterator[Answer | RunnerError]:
        task = self.task_run.task
        together = [each[0] for each in asked if not isinstance(each, RunnerError) and not each[1].given]
        choices: dict[Question, Sequence[Choice]] = {}
        if type(task).ask is Task.ask and len(together) > 1:
            view = QuestionView(self.run, self.task_run, StopRequest(), self._regions({}))
            # what cannot be answered together is told apart one by one
            with suppress(RunnerError, ValueError):
                outputs = view.outputs_of_many([question.as_example() for question in together])
                choices = dict(zip(together, (task.choices(*each) for each in outputs), strict=True))
        for each in asked:
            if isinstance(each, RunnerError):
                yield each
                continue
            question, regions = each
            try:
                if question not in choices or regions.given:
                    view = QuestionView(self.run, self.task_run, StopRequest(), regions)
                    choices[question] = task.ask(question, view).choices
                yield Answer(question, tuple(choices[question][:top]), regions.image_sizes(question.image_ids))
            except RunnerError as error:
                yield error

    def _shown_pairs(self, question: Question, best: Choice) -> list[Pair]:
        """The pairs whose attention is shown: all, or where images or texts compete those of the best one."""
        numbered = list(enumerate(question.image_ids))
        pairs = [Pair(text, image_id, number) for text in question.texts for number, image_id in numbered]
        if self.asked_images is not None and self.asked_texts is not None:
            return pairs
        shown = [pair for pair in pairs if best.text in (pair.text, pair.image_id)] or pairs
        return [Pair(shown[0].text, shown[0].image_id)]  # candidates are no first and second images

    def question(self, text: str | Sequence[str], image: Image | Sequence[Image]) -> tuple[Question, AskedRegions]:
        """The question as the task gets it, and where its regions are; raises what ``ask`` raises."""
        texts = (text,) if isinstance(text, str) else tuple(text)
        images = [image] if isinstance(image, str | Path | RegionFeatures) else list(image)
        ids = [canonical_image_id(each) if isinstance(each, str) else "" for each in images]
        task = f"task '{self.task_run.name}'"
        if problems := self.task_run.task.check_question(Question(texts, tuple(ids))):
            raise UsageError(f"{task}: {'; '.join(problems)}")
        given: dict[str, RegionFeatures | Path] = {}
        for number, each in enumerate(images):
            if not isinstance(each, str):
                features = self._features(each)
                name = canonical_image_id(features.name) if isinstance(features, Path) else features.image_id
                ids[number] = f"{name} ({number + 1})" if name in ids else name  # of two folders, say
                given[ids[number]] = features
        question, regions = Question(texts, tuple(ids)), self._regions(given)
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
        if not isinstance(self.store, RegionFeatureStore) or image_id not in self.store:
            raise DataError(self._unknown(image_id))
        return self.store[image_id]

    def note_on_photographs(self, detector: Detector) -> str | None:
        """What to say where the photographs' features, by ``detector``, are others than the run was trained on.

        None where both are known to be alike, or the store does not say what its features are of.
        """
        if not isinstance(self.store, RegionFeatureStore):
            return "the model sees the photographs themselves; no detector is needed" if self.reads_pictures else None
        trained, manifest, now = stated_origin(self.store), self.store.manifest, FeatureOrigin.of(detector)
        found = differences(now, (manifest.min_regions, manifest.max_regions), trained)
        if not trained.extractor or found == []:
            return None
        where = f" ({'; '.join(found)})" if found else ""
        return f"the run's features are of {trained}; those of photographs are of {now}{where}"

    @property
    def asked_images(self) -> int | None:
        """How many images a question has; None: one or more."""
        return self.task_run.task.asked_images

    @property
    def asked_texts(self) -> int | None:
        """How many texts a question has; None: one or more."""
        return self.task_run.task.asked_texts

    @cached_property
    def store(self) -> ImageStore | None:
        """The region features or pictures of the run's images; None if they are not there any more."""
        experiment, dataset = self.run.experiment, self.task_run.config.dataset
        return open_images(experiment, dataset) if images_path(experiment, dataset).exists() else None

    @property
    def reads_pictures(self) -> bool:
        """Whether the model sees photographs themselves, so that no detector is needed."""
        return self.run.experiment.reads_pictures

    def _regions(self, given: Mapping[str, RegionFeatures | Path]) -> AskedRegions:
        store, shape = self.store, self.run.experiment.backbone.pictures()
        pictures = {name: each for name, each in given.items() if isinstance(each, Path)}
        if shape is not None:
            known = store if isinstance(store, PictureStore) else PictureStore.of_files({}, shape)
            store = known.with_files(pictures) if pictures else store
        return AskedRegions(store, given, self.task_run.reads_classes)

    def _features(self, image: Path | RegionFeatures) -> RegionFeatures | Path:
        if self.reads_pictures:
            if isinstance(image, RegionFeatures):
                raise UsageError(f"{image.image_id}: the model sees pictures, not region features; give the picture")
            return image
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
        if any(_HALF_CHARACTER.search(text) for text in question.texts):
            return ["the text has half a character (a lone surrogate), which no Unicode text has"]
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
        kind = "picture" if self.reads_pictures else "region features"
        if self.store is None:
            path = images_path(self.run.experiment, self.task_run.config.dataset)
            return f"image '{_short(image_id)}': the run's {kind.replace('picture', 'pictures')}, {path}, are not there"
        known = self.store.image_ids()
        near = self.store.find_same_image(image_id) or next(iter(difflib.get_close_matches(image_id, known, 1)), None)
        hint = f"; did you mean '{near}'?" if near else f"; there is, for instance, '{known[0]}'" if known else ""
        return f"image '{_short(image_id)}' has no {kind} in {self.store.path} ({len(known):,} images){hint}"


def _assembled(experiment: Experiment, folder: RunFolder, plugins: Plugins) -> Run:
    """The model of a run with all its heads, on this process alone; nothing of its data."""
    if experiment.train.threads is not None:
        torch.set_num_threads(experiment.train.threads)
    ranks = Ranks(0, 1, choose_device())
    experiment = prepare_precision(experiment, ranks.device)
    # a checkpoint fills every tensor, or is refused
    with WithoutRandomNumbers() if folder.checkpoints.is_dir() else nullcontext():
        backbone, tasks, heads, report = build_network(experiment, plugins)
    runs = [
        TaskRun(
            config=config,
            task=task,
            metrics=(),
            store=_NoStore(images_path(experiment, config.dataset)),
            encode=backbone.pair_encoder(config.max_text_tokens),
            train=None,
            splits={},
            coverage=Coverage(images_path(experiment, config.dataset), 0, ()),
            reads_classes=backbone.reads_classes,
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

    read_with_classes = read


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
