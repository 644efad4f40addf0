"""The task interface: how an annotated example becomes text-image pairs, a loss and a prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic

from vlrun.interfaces.cases import Case, View, in_words, target_fields
from vlrun.interfaces.examples import Example, Pair, Prediction, RegionBatch, Target
from vlrun.interfaces.heads import NamedHead
from vlrun.interfaces.masking import Unmasked
from vlrun.interfaces.measurement import ByTurns, Measurement
from vlrun.interfaces.metric import Metric
from vlrun.interfaces.question import Answer, Choice, Question

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn

    from vlrun.interfaces.backbone import Backbone
    from vlrun.interfaces.dataset import Dataset
    from vlrun.interfaces.run_view import RunView
    from vlrun.interfaces.tensors import Batch, Encoding
    from vlrun.interfaces.training import TrainingPass, TrainingStep


class Task(ABC, Generic[Target]):
    """A view of text-image pairs. Everything here is per process; the core gathers, averages and repeats.

    What is called, in order: the constructor, ``build_head``, ``check_splits``, ``start_training``; then ``pairs``,
    ``collate`` and ``mask`` for a look at the first batch, which finds inputs from which nothing can be learned; then
    ``start_epoch`` before the batches of each epoch. What makes pairs must not depend on ``start_epoch``, but may on
    ``start_training``. Without training, ``start_training`` and ``start_epoch`` are not called.

    Attributes:
        imported_head: neutral name under which files of weights hold this task's head, such as ``answer_head``; None
            if it stays within its run, or has several parts with names (``named_heads``).
        submission_suffix: suffix of the files of ``write_submission``, such as ``.json``; None if there is no server.
        requires_matching_head: whether a run stops unless imported weights filled the backbone's matching head.
        reads_classes: whether ``mask`` gets the classes that the detector saw, where the store has them.
        in_batch: whether training calls ``pairs_in_batch`` instead of ``pairs``.
        asked_images: how many images a question has; None: one or more.
        asked_texts: likewise how many texts.
    """

    imported_head: str | None = None
    submission_suffix: str | None = None
    requires_matching_head: bool = False
    reads_classes: bool = False
    in_batch: bool = False
    asked_images: int | None = 1
    asked_texts: int | None = 1

    def pairs(self, example: Example[Target], rng: np.random.Generator) -> list[Pair]:
        """The pairs of one example; by default its text with each of its images.

        ``rng`` is derived from (seed, epoch, position of the example) and is the only source of randomness. Evaluation
        calls this, too, always as in epoch 0, and nothing tells the two apart: an example that is scored has the pairs
        that it is trained with. What training alone adds belongs in ``pairs_in_batch``.
        """
        return [Pair(example.text, image_id, number) for number, image_id in enumerate(example.image_ids)]

    def pairs_in_batch(
        self, example: Example[Target], batch: Sequence[Example[Target]], rng: np.random.Generator
    ) -> list[Pair]:
        """Like ``pairs``, but knows all examples of the global batch, whichever ranks they went to.

        Training calls it in place of ``pairs`` where ``in_batch`` is true; evaluation never does.
        """
        return self.pairs(example, rng)

    @abstractmethod
    def collate(
        self, examples: Sequence[Example[Target]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """Targets of a batch, and whatever ``predict`` needs.

        ``regions`` has one row per pair, uncut and with boxes in pixels; ``encoding`` is what the backbone will see
        and may hold fewer or more (padded) regions. Runs in loader workers.

        Where features do not come from workers (``features.residency``), both have features that are 0 wide, unless
        the first batch shows that its targets depend on them.
        """

    def mask(self, unmasked: Unmasked[Target]) -> tuple[Encoding, Mapping[str, Tensor]]:
        """Hides parts of pairs: what the model sees instead, and the targets that follow; by default no change.

        Runs in loader workers after ``collate``, in training and in evaluation, which hides the same at every time.
        """
        return unmasked.encoding, {}

    @abstractmethod
    def build_head(self, backbone: Backbone) -> nn.Module:
        """The task's layers: called with a BackboneOutput, returns whatever ``loss`` and ``predict`` take.

        Where the head has an attribute ``reads_pooled_alone`` that is true, the output has the pooled state alone, in
        training too: ``text`` and ``regions`` are (P, 0, H), and the backbone leaves out what only they need.
        """

    def training_outputs(self, batch: Batch, step: TrainingPass) -> Any:
        """What ``loss`` gets of a batch in training; by default what the head gives for its pairs.

        Override it to run the network several times or on a changed input, to ask another network besides
        (``companions``), or to report numbers beside the losses (``step.report``). ``batch`` is on the device. Torch's
        global generator has the address of the pass as its seed, so what is drawn from it is the same after a resume.
        """
        return step.outputs(batch.encoding)

    @abstractmethod
    def loss(self, outputs: Any, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named losses, each *summed* over the items of this batch; several are weighted against each other here.

        The core multiplies all of them by the option ``loss_weight`` and divides by ``loss_counts``, summed over all
        ranks and micro-batches, which makes the gradient the same however a global batch is spread. A loss that is no
        sum over items is one of ``batch_loss``; a task that has such losses alone returns none here.
        """

    @abstractmethod
    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How many items each named loss is the mean of: scalars, one per key of ``loss``; zero means no loss."""

    def shared_rows(self, outputs: Any, targets: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What ``batch_loss`` needs of the items of one forward pass: tensors with a row for each, by name.

        Rows of one name are equally wide in every pass. ``outputs`` are those of ``training_outputs``.
        """
        return {}

    def batch_loss(self, rows: Mapping[str, Tensor], step: TrainingStep) -> dict[str, Tensor]:
        """Named losses of a global batch as a whole, such as a contrastive one: scalars, already divided.

        Args:
            rows: those of ``shared_rows`` of all passes of all processes, (N, ...), the same on every process. They are
                in the order of the batch where all examples have as many rows; else their order changes with the
                number of passes, and the losses should not depend on it.

        Every process computes it once a step, and gives its own rows their gradient: it is that of a single process
        with one pass, also with ``train.micro_batches`` (a process with several passes makes each of them twice, first
        for its rows and then for the gradient: Gao et al. 2021, GradCache). The gradient also reaches parameters of
        ``step.model`` that are used here, such as a temperature. Buffers are not changed here, but in ``after_update``.
        """
        return {}

    def after_update(self, rows: Mapping[str, Tensor], step: TrainingStep) -> None:
        """Called on every process when the optimiser has taken a step of a task with a ``batch_loss``.

        Here a queue in a buffer of the head takes the rows, which have no gradient, or an average of the network
        follows it.
        """

    def companions(self) -> Mapping[str, nn.Module]:
        """Networks that ``training_outputs`` asks besides the one that trains, such as a teacher of distillation.

        Called once on every process, before anything is trained. They take an ``Encoding`` (``vlrun.load_network``
        makes such of a finished run), stay as they are, and are in no checkpoint.
        """
        return {}

    def decode(self, outputs: Any, batch: Batch) -> Any:
        """What ``predict`` needs of a head's outputs, computed on the model's device; by default all of them.

        For heads whose outputs are too large to leave the device. ``outputs`` are in float32 or wider; ``batch`` is on
        the CPU.
        """
        return outputs

    @abstractmethod
    def predict(self, outputs: Any, batch: Batch) -> list[Prediction]:
        """One prediction per example of the batch, in order.

        ``outputs`` is what ``decode`` returned; it and ``batch`` are on the CPU. Region features that are on the
        device already are 0 wide here.
        """

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """The metrics of this task's own protocol, used unless the experiment names others."""

    def start_training(self, dataset: Dataset[Target], seed: int) -> None:
        """Called once, with all training examples and the run's seed, before any batch of them is made."""

    def start_epoch(self, epoch: int, run: RunView) -> None:
        """Called on every rank before the batches of this task's ``epoch`` (from 0) are made, and after a resume.

        ``run`` has the model as it is now, for tasks that choose their training pairs with it. What changes from this
        epoch on, such as the loss, is announced with ``run.note``.

        Raises:
            StoppedOnRequest: a signal came; a checkpoint is written, and a resume calls this again.
        """

    def check_splits(self, datasets: Mapping[str, Dataset[Target]]) -> None:
        """Called before any work, with the evaluation splits by name, to refuse what would otherwise fail after hours.

        Raises:
            DataError: everything that would stop an evaluation of these splits.
        """

    def describe_splits(self, datasets: Mapping[str, Dataset[Target]]) -> list[tuple[str, str]]:
        """Labelled lines for the header of a run: what an evaluation of these splits involves."""
        return []

    def evaluate(self, run: RunView, split: str, *, final: bool) -> list[Prediction]:
        """The predictions of a split, complete at least on the main rank; by default one for each example.

        Override it in a task that does not predict examples one by one, but ranks them, for instance.

        Args:
            final: True at the end of a run or after it, False between epochs.

        Raises:
            StoppedOnRequest: a signal came.
        """
        return run.predict(split)

    def evaluated_part(self, dataset: Dataset[Target], *, final: bool) -> Dataset[Target]:
        """The examples of a split that ``evaluate`` predicts and metrics see; by default all."""
        return dataset

    def cases(self, predictions: Sequence[Prediction], dataset: Dataset[Target]) -> Iterator[Case]:
        """Each prediction with what it is about, in order; by default with the example that has its id.

        Args:
            dataset: what ``evaluated_part`` returned for the split.
        """
        examples = iter(dataset)
        positions: dict[str, int] | None = None
        for prediction in predictions:
            example = next(examples, None)
            if example is None or example.id != prediction.id:  # not one for each example, in order
                positions = positions or {each.id: position for position, each in enumerate(dataset)}
                example = dataset[positions[prediction.id]] if prediction.id in positions else None
            yield Case(prediction.id) if example is None else self.case(prediction, example)

    def case(self, prediction: Prediction, example: Example[Target]) -> Case:
        """A prediction with its example; by default it is not judged, and all fields of both are shown.

        Override it to say what is right in the words of the task, and whether the prediction is.
        """
        truth = target_fields(example)
        return Case(
            prediction.id,
            (example.text,) if example.text else (),
            example.image_ids,
            truth,
            predicted=in_words(prediction.fields),
            right=in_words(truth),
            views=tuple(map(View, example.image_ids)),
        )

    def evaluation_protocol(self, *, final: bool) -> Mapping[str, str]:
        """What every score says about how ``evaluate`` works, besides what the metrics say."""
        return {}

    def measure(self, run: RunView, by_turns: ByTurns) -> list[Measurement]:
        """What ``runner bench`` tells of an evaluation of this task's own; by default nothing.

        Called on every process; ``by_turns`` times what is done.
        """
        return []

    def check_question(self, question: Question) -> list[str]:
        """What is wrong with the form of a question; by default only the number of its texts and images can be."""
        counts = (("image", self.asked_images, question.image_ids), ("text", self.asked_texts, question.texts))
        return [
            f"it takes {_counted(wanted, unit)}, and got {_counted(len(given), unit)}"
            for unit, wanted, given in counts
            if (len(given) != wanted if wanted is not None else not given)
        ]

    def ask(self, question: Question, run: RunView) -> Answer:
        """What the model says to a question that is in no split; by default it is made an example of the task."""
        return Answer(question, tuple(self.choices(*run.outputs(question.as_example()))))

    def choices(self, outputs: Any, batch: Batch) -> list[Choice]:
        """What could be answered to the one example of ``batch``, best first; by default all that ``predict`` says.

        Arguments as for ``predict``.
        """
        (prediction,) = self.predict(outputs, batch)
        return [Choice(", ".join(f"{name} {value}" for name, value in prediction.fields.items()))]

    def head_meaning(self) -> Mapping[str, Any]:
        """What the numbers of the head mean, such as its list of answers; JSON-ready.

        Kept in every checkpoint; a checkpoint whose head means something else is refused.
        """
        return {}

    def adapt_imported_head(
        self, tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        """Changes the tensors of an imported head to what this task's head means; by default no change.

        Args:
            tensors: by the head's own parameter names.
            meaning: what the importer was told about them, in the form of ``head_meaning``; may be empty.

        Returns:
            The tensors to load, and lines for the report.

        Raises:
            CheckpointError: what they mean is unknown, or cannot be changed.
        """
        return tensors, []

    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        """The parts of ``build_head``'s layers that travel between runs and files, by neutral name.

        Imported weights fill them, checkpoints remember them, and exports write them. The matching head is the
        backbone's and not among them. By default all of ``head``, under ``imported_head``; a task with several heads
        returns each, such as ``{"word_head": ..., "region_head": ...}`` (``vlrun.blocks.decoders``). A head whose
        ``adapt`` gives no tensors is left as it is.
        """
        if self.imported_head is None:
            return {}
        return {self.imported_head: NamedHead(head, self.head_meaning(), self.adapt_imported_head)}

    def write_submission(self, predictions: Sequence[Prediction], path: Path) -> None:
        """Writes ``predictions`` as the evaluation server wants them; called where ``submission_suffix`` is set."""


def _counted(number: int | None, unit: str) -> str:
    return f"at least one {unit}" if number is None else f"{number or 'no'} {unit}{'' if number == 1 else 's'}"
