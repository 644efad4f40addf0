"""Tasks that choose an answer from a list: the targets, losses and predictions that VQA and GQA share."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun.blocks.answering_config import AnsweringConfig, answer_list_problem
from vlrun.blocks.answers import AnswerVocabulary, read_answers, soft_score
from vlrun.blocks.decoders import ANSWER_HEAD
from vlrun.blocks.heads import PooledClassifier, num_classes
from vlrun.errors import CheckpointError, DataError, first_few
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.cases import Case
from vlrun.interfaces.examples import Answers, Example, Prediction, RegionBatch
from vlrun.interfaces.heads import NamedHead
from vlrun.interfaces.metric import Metric
from vlrun.interfaces.question import Choice
from vlrun.interfaces.run_view import RunView
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch, Encoding


class AnsweringTask(Task[Answers]):
    """One pair per question, one class per answer of the vocabulary.

    Attributes:
        vocabulary: the answers that can be predicted. Others may be right, but are never given.
    """

    imported_head = ANSWER_HEAD

    def __init__(self, config: AnsweringConfig) -> None:
        """Reads the answers that can be predicted.

        Raises:
            DataError: the vocabulary is missing or damaged.
        """
        self.config = config
        self.vocabulary: AnswerVocabulary = read_answers(config.answers_path)
        self.loss_now = _loss_in_epoch(config, 0)

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """The metrics of the task's own protocol."""

    def normalised(self, answer: str) -> str:
        """The form in which an annotated answer is looked up in the vocabulary; by default unchanged."""
        return answer

    def normalised_pretraining(self, answer: str) -> str:
        """The form in which an answer of this vocabulary is looked up among those of an imported head."""
        return pretraining_spelling(answer)

    def build_head(self, backbone: Backbone) -> nn.Module:
        """A classifier of pooled outputs with one class per answer."""
        return PooledClassifier(backbone.hidden_size, len(self.vocabulary))

    def start_epoch(self, epoch: int, run: RunView) -> None:
        """Sets the loss of this epoch: ROSITA trains first with KL divergence, later with binary cross entropy."""
        self.loss_now = _loss_in_epoch(self.config, epoch)
        before = _loss_in_epoch(self.config, max(0, epoch - 1))
        if self.loss_now != before:
            run.note(
                f"epoch {epoch + 1}: {run.name} trains with {_LOSSES[self.loss_now]} from here on, after "
                f"{_LOSSES[before]}; the two have different scales, so the loss jumps"
            )

    def collate(
        self, examples: Sequence[Example[Answers]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """Targets for B questions with A answers in the vocabulary.

        ``soft_scores`` (B, A): the score of predicting each answer. ``shares`` (B, A): the share of people who gave it;
        a row sums to less than 1 if some answers are outside the vocabulary. ``known`` (B,): 0 if answers are hidden.
        """
        soft_scores = np.zeros((len(examples), len(self.vocabulary)), np.float32)
        shares = np.zeros_like(soft_scores)
        for row, example in enumerate(examples):
            if example.target is not None:
                self._fill(soft_scores[row], shares[row], example)
        targets = {
            "soft_scores": torch.from_numpy(soft_scores),
            "known": torch.tensor([float(example.target is not None) for example in examples]),
        }
        if self.config.loss in ("kl", "kl-then-bce"):
            targets["shares"] = torch.from_numpy(shares)
        return targets

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss ``answer``, one item per question: the mean over A answers, or with ``scale_by_answers`` the sum.

        ROSITA (reference implementation, section 6) takes the mean, LXMERT the sum. LXMERT also multiplies its
        cross-entropy by A, although that is no mean over answers; we do too, as its learning rate depends on it.
        """
        num_answers = outputs.shape[1]
        scale = num_answers if self.config.scale_by_answers else 1
        if self.loss_now == "cross-entropy":
            best = targets["soft_scores"].argmax(dim=1)
            per_question = scale * F.cross_entropy(outputs, best, reduction="none")
        elif self.loss_now == "kl":
            shares = targets["shares"].to(outputs.dtype)
            divergence = F.kl_div(F.log_softmax(outputs, dim=1), shares, reduction="none")
            per_question = divergence.mean(dim=1) * scale
        else:
            wanted = targets["soft_scores"].to(outputs.dtype)
            per_question = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(dim=1) * scale
        return {"answer": (per_question * self._weights(targets)).sum()}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The number of questions that count."""
        return {"answer": self._weights(targets).sum()}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        """The answer with the largest logit, or the first of several such answers.

        Fields: ``answer``, and ``score``, its probability among all answers.
        """
        probabilities = outputs.double().softmax(dim=1).numpy()
        best = outputs.numpy().argmax(axis=1)
        return [
            Prediction(name, {"answer": self.vocabulary.answers[index], "score": float(row[index])})
            for name, index, row in zip(batch.ids, best, probabilities, strict=True)
        ]

    def case(self, prediction: Prediction, example: Example[Answers]) -> Case:
        """A question with the answers that people gave, or their scores, the most frequent first."""
        case, target = super().case(prediction, example), example.target
        answer = str(prediction.fields.get("answer", ""))
        if target is None:
            return replace(case, predicted=answer)
        given: Mapping[str, float] = Counter(target.answers) if target.answers else target.scores or {}
        ordered = dict(sorted(given.items(), key=lambda item: -item[1]))
        if len(target.answers) == 1:
            truth: dict[str, Any] = {"answer": target.answers[0]}
            right = target.answers[0]
        else:
            truth = {"answers" if target.answers else "scores": ordered}
            right = ", ".join(f"{name} ({value:g})" for name, value in ordered.items())
        return replace(case, truth=truth, predicted=answer, right=right, credit=self.credit(answer, target))

    def credit(self, answer: str, target: Answers) -> float:
        """How right an answer is, in [0, 1]; by default its soft score."""
        if not target.answers:
            return float((target.scores or {}).get(answer, 0.0))
        return soft_score([*map(self.normalised, target.answers)].count(answer), len(target.answers))

    def choices(self, outputs: Tensor, batch: Batch) -> list[Choice]:
        """All answers of the vocabulary by their probability; equally probable ones in the vocabulary's order."""
        probabilities = outputs[0].double().softmax(dim=0)
        order = torch.argsort(outputs[0], descending=True, stable=True).tolist()
        return [Choice(self.vocabulary.answers[index], float(probabilities[index])) for index in order]

    def head_meaning(self) -> Mapping[str, Any]:
        """The answers, in the order of their classes."""
        return {"answers": list(self.vocabulary)}

    def adapt_imported_head(
        self, tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        """Gives each answer its row of the imported head, or zeros if that head lacks it (LXMERT, section 4)."""
        return adapt_answers(self.vocabulary, self.normalised_pretraining, tensors, meaning)

    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        """The whole head; with ``transfer_head: false`` it is exported and takes nothing."""
        adapt = self.adapt_imported_head if self.config.transfer_head else _take_nothing
        return {ANSWER_HEAD: NamedHead(head, self.head_meaning(), adapt)}

    def _fill(self, soft_scores: np.ndarray, shares: np.ndarray, example: Example[Answers]) -> None:
        """Fills the rows (A,) of a question whose answers are known."""
        target = example.target
        assert target is not None
        if target.scores is not None:
            if self.config.loss in ("kl", "kl-then-bce"):
                raise DataError(self.config.needs_answers(f"question '{example.id}'"))
            for answer, score in target.scores.items():
                if (index := self.vocabulary.index_of(answer)) is not None:
                    soft_scores[index] = score
            return
        for answer, count in Counter(map(self.normalised, target.answers)).items():
            if (index := self.vocabulary.index_of(answer)) is not None:
                soft_scores[index] = soft_score(count, len(target.answers))
                shares[index] = count / len(target.answers)

    def _weights(self, targets: Mapping[str, Tensor]) -> Tensor:
        """(B,), 1 for questions that count: the answers are known and, for cross-entropy, one is in the vocabulary."""
        weights = targets["known"]
        if self.loss_now == "cross-entropy":
            weights = weights * (targets["soft_scores"].sum(dim=1) > 0)
        return weights


def answer_head(
    module: PooledClassifier, vocabulary: AnswerVocabulary, spelling: Callable[[str], str] | None = None
) -> NamedHead:
    """A head over a list of answers with its meaning, for ``Task.named_heads`` under ``ANSWER_HEAD``.

    Args:
        spelling: from an answer of ``vocabulary`` to its spelling among those of an imported head; by default that of
            LXMERT's pre-training.
    """
    adapt = partial(adapt_answers, vocabulary, spelling or pretraining_spelling)
    return NamedHead(module, {"answers": list(vocabulary)}, adapt)


def adapt_answers(
    vocabulary: AnswerVocabulary,
    spelling: Callable[[str], str],
    tensors: Mapping[str, Tensor],
    meaning: Mapping[str, Any],
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Gives each answer of ``vocabulary`` its row of an imported ``PooledClassifier``, or zeros if that lacks it.

    Raises:
        CheckpointError: which answers the imported head has is unknown, or they are not as many as its rows.
    """
    theirs = meaning.get("answers")
    if problem := answer_list_problem(num_classes(tensors), theirs):
        raise CheckpointError(problem)
    assert theirs is not None
    if tuple(theirs) == vocabulary.answers:
        return tensors, [f"answer head: the same {len(theirs):,} answers in the same order (list {vocabulary.hash})"]
    moved, missing = transplant_rows(
        tensors["dense1.weight"], tensors["dense1.bias"], theirs, list(vocabulary), spelling
    )
    num_moved = len(vocabulary) - len(missing)
    lines = [f"answer head: {num_moved:,} of {len(vocabulary):,} answers found among {len(theirs):,}; others zero"]
    if missing:
        lines.append(f"answer head: not found: {', '.join(first_few(list(map(repr, missing)), 10))}")
    return {**tensors, **moved}, lines


def _take_nothing(tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], list[str]]:
    return {}, [f"{ANSWER_HEAD}: left, {len(tensors)} tensors: transfer_head is false"]


def transplant_rows(
    weight: Tensor, bias: Tensor, source: Sequence[str], target: Sequence[str], spelling: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """Makes the last layer for ``target`` answers from that for ``source`` answers.

    Args:
        weight, bias: (S, M), (S,), one row per source answer.
        spelling: function from a target answer to its spelling among the source answers.

    Returns:
        ``dense1.weight`` (T, M) and ``dense1.bias`` (T,), and the target answers that have no source row; theirs are 0.
    """
    rows = {answer: index for index, answer in enumerate(source)}
    source_rows = [rows.get(spelling(answer)) for answer in target]
    new_weight, new_bias = weight.new_zeros(len(target), weight.shape[1]), bias.new_zeros(len(target))
    for index, row in enumerate(source_rows):
        if row is not None:
            new_weight[index], new_bias[index] = weight[row], bias[row]
    missing = [answer for answer, row in zip(target, source_rows, strict=True) if row is None]
    return {"dense1.weight": new_weight, "dense1.bias": new_bias}, missing


_ARTICLES = ("a ", "an ", "the ")
_SPELLINGS = {
    word: str(number)
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
} | {"grey": "gray"}


def pretraining_spelling(answer: str) -> str:
    """An answer as LXMERT's pre-training spells it: lower case, no final period, no article, digits, ``gray``.

    The steps have this order. Leading spaces stay, so that an article behind them stays too, as in the released code.
    """
    answer = answer.lower()
    if answer.endswith("."):
        answer = answer[:-1].strip()
    for article in _ARTICLES:
        if answer.startswith(article):
            answer = answer[len(article) :].strip()
    return _SPELLINGS.get(answer, answer)


_LOSSES = {"kl": "KL divergence", "bce": "binary cross entropy", "cross-entropy": "cross entropy"}


def _loss_in_epoch(config: AnsweringConfig, epoch: int) -> str:
    if config.loss == "kl-then-bce":
        return "kl" if epoch < config.switch_epoch else "bce"
    return config.loss
