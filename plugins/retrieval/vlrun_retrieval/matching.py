"""Tasks that rank images and texts by how well they match, as retrieval and zero-shot retrieval share them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import tanh
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlrun import (
    Answer,
    Backbone,
    Batch,
    ByTurns,
    Case,
    Choice,
    DataError,
    Dataset,
    Measurement,
    Metric,
    Prediction,
    Question,
    RunView,
    Task,
)
from vlrun_retrieval.bench import measured
from vlrun_retrieval.candidates import CandidatePool, SplitPools
from vlrun_retrieval.cases import query_cases
from vlrun_retrieval.config import MatchingConfig, RerankConfig
from vlrun_retrieval.head import PairMatcher
from vlrun_retrieval.matrix import read_first_stage
from vlrun_retrieval.metric import RetrievalMetric, needed_texts, usable_protocols
from vlrun_retrieval.pool import PoolEvaluation, score_pool
from vlrun_retrieval.ranking import PROTOCOLS
from vlrun_retrieval.scorer import OnTheWay, PairScorer

MATCH = 1
"""The class of the matching head that means that text and image match."""

_ASKED_AT_ONCE = 32


class MatchingTask(Task[Any]):
    """Ranks every image of a split for every text and the reverse, by a score of each pair.

    Every pair of a split's pool is scored and ranked; a subclass says how matching is trained, if at all. An example
    is one text with its image.

    Attributes:
        sample_size: how many texts ``check_sample`` gets before a pool is scored; 0: it is not called.
        pools: what competes in each split.
    """

    sample_size: int = 0
    asked_images = None
    asked_texts = None

    def __init__(self, config: MatchingConfig) -> None:
        self.config: Any = config
        self.pools = SplitPools()

    def build_head(self, backbone: Backbone) -> PairMatcher:
        """The backbone's own matching head."""
        return PairMatcher(backbone.matching_head())

    def pair_scores(self, logits: Tensor) -> Tensor:
        """Logits (P, 2) -> scores (P,), larger for a better match.

        The log-odds are monotone in the softmax probability of a match, by which the papers rank, but two of them are
        never both rounded to 1.
        """
        return logits[:, MATCH] - logits[:, 1 - MATCH] if self.config.score == "log-odds" else logits[:, MATCH]

    def check_sample(self, matched: NDArray[np.float32], mismatched: NDArray[np.float32]) -> None:
        """Looks at the scores (n,) of some texts with their own image, and with another one, before all are scored."""

    def worded(self, text: str) -> str:
        """A text as the model reads it."""
        return text

    def scored_pool(self, dataset: Dataset[Any]) -> CandidatePool:
        """What competes in a dataset, with the texts as the model reads them."""
        pool = self.pools.pool(dataset)
        texts = tuple(map(self.worded, pool.texts))
        return pool if texts == pool.texts else replace(pool, texts=texts)

    def check_splits(self, datasets: Mapping[str, Dataset[Any]]) -> None:
        """Refuses a split that a protocol is not defined for, or of which the first stage lacks images or texts.

        Raises:
            DataError: what would stop an evaluation after hours of work.
        """
        problems: list[str] = []
        for number, (split, dataset) in enumerate(datasets.items()):
            pool = self.pools.pool(dataset)
            images = len(pool.image_ids)
            problems += [
                f"task '{self.config.display_name}': retrieval protocol '{name}' is not defined for the {images:,} "
                f"images of split '{split}': {PROTOCOLS[name].summary}. Leave it out of `protocols`, or the split out "
                "of `evaluate`"
                for name in self.config.protocols
                if not PROTOCOLS[name].fits(images)
            ]
            rerank = self.config.rerank
            if rerank is not None and (rerank.final or number == 0):
                try:
                    read_first_stage(rerank.scores, pool.image_ids, pool.text_ids)
                except DataError as error:
                    problems += error.problems
        if problems:
            raise DataError(problems)

    def describe_splits(self, datasets: Mapping[str, Dataset[Any]]) -> list[tuple[str, str]]:
        """How many pairs an evaluation of each split has to score."""

        def size(dataset: Dataset[Any], final: bool) -> str:
            pool = self.pools.pool(self.evaluated_part(dataset, final=final))
            images = len(pool.image_ids)
            texts = len(needed_texts(pool, usable_protocols(self.config.protocols, images)))
            return f"{images * texts:,} to score ({images:,} images x {texts:,} texts)"

        lines = []
        for split, dataset in datasets.items():
            at_the_end, between = size(dataset, final=True), size(dataset, final=False)
            more = "" if between == at_the_end else f"; between epochs {between}"
            lines.append(("pairs", f"{self.config.display_name} {split}: {at_the_end}{more}"))
        return lines

    def evaluate(self, run: RunView, split: str, *, final: bool) -> list[Prediction]:
        """Scores every pair of the split once and ranks them: one prediction per query, on the main process."""
        dataset = run.datasets[split]
        part, rerank = self.evaluated_part(dataset, final=final), self.first_stage(final=final)
        evaluation = PoolEvaluation(
            split=split,
            pool=self.scored_pool(part),
            config=self.config,
            rerank=rerank,
            final=final,
            is_whole=final or (part is dataset and rerank == self.first_stage(final=True)),
            to_scores=self.pair_scores,
            sample_size=self.sample_size,
            check_sample=self.check_sample,
        )
        return score_pool(evaluation, run)

    def measure(self, run: RunView, by_turns: ByTurns) -> list[Measurement]:
        """How fast pairs of the first split are scored."""
        pool = self.scored_pool(next(iter(run.datasets.values())))
        return measured(run, pool, self.config, self.pair_scores, by_turns)

    def evaluated_part(self, dataset: Dataset[Any], *, final: bool) -> Dataset[Any]:
        """All examples at the end; between epochs perhaps the first images only."""
        limit = self.config.validation_images
        return dataset if final or limit is None else self.pools.first_images(dataset, limit)

    def first_stage(self, *, final: bool) -> RerankConfig | None:
        """What chooses the candidates, at the end or between epochs; None where every pair is scored."""
        rerank: RerankConfig | None = self.config.rerank
        return None if rerank is None or (final and not rerank.final) else rerank

    def evaluation_protocol(self, *, final: bool) -> Mapping[str, str]:
        """What scores must say where a first stage chose the candidates."""
        rerank = self.first_stage(final=final)
        if rerank is None:
            return {}
        best = f"the best {rerank.candidates:,} per query by {rerank.scores.name}"
        return {"first stage": f"{best}; a right one outside them ranks last"}

    def metrics(self) -> list[Metric]:
        """Recalls and ranks under each protocol of the options."""
        return [RetrievalMetric(self.config.protocols, self.config.ties, self.protocol(), self.pools.pool)]

    def protocol(self) -> Mapping[str, str]:
        """What every score says about how pairs were scored."""
        return {"matching score": self.config.score}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        """The score of each pair of the batch, for those who want them one by one; pools do not come here."""
        scores: Sequence[float] = self.pair_scores(outputs).tolist()
        return [Prediction(name, {"score": score}) for name, score in zip(batch.ids, scores, strict=True)]

    def cases(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> Iterator[Case]:
        """Each query with its right candidates and their rank."""
        return query_cases(predictions, self.pools.pool(dataset), self.config.ties)

    def check_question(self, question: Question) -> list[str]:
        """Images compete for one text, or texts for one image."""
        if len(question.texts) > 1 and len(question.image_ids) > 1:
            return ["it ranks images for one text, or texts for one image; several of both are no question"]
        return super().check_question(question)

    def ask(self, question: Question, run: RunView) -> Answer:
        """The images by how well they match the text, or the texts by how well they match the image.

        A probability is that of a match, for each pair alone; they do not add up to 1. There is none where pairs are
        ranked by the logit of a match alone, or by two towers, of which only differences mean something. With one text
        and one image the only choice is the image.
        """
        scorer = PairScorer.of_run(run, self.pair_scores)
        texts, images = question.texts, question.image_ids
        scores: list[float] = []
        with scorer.at_work(max(len(texts), len(images))):
            encoded = scorer.encoded([self.worded(text) for text in texts], images[0])
            for start in range(0, max(len(texts), len(images)), _ASKED_AT_ONCE):
                rows = slice(start, start + _ASKED_AT_ONCE)
                some_texts = np.arange(len(texts))[rows] if len(texts) > 1 else np.zeros(1, np.int64)
                some_images = images[rows] if len(images) > 1 else images
                parts = scorer.text_part(encoded, some_texts), scorer.region_part(some_images)
                scores += OnTheWay(scorer.all_pairs(*parts)).values().ravel().tolist()
        names = texts if len(texts) > 1 else images
        is_probability = self.config.score == "log-odds" and not run.backbone.two_towers
        order = sorted(range(len(names)), key=lambda number: -scores[number])
        return Answer(
            question,
            tuple(
                Choice(names[number], 0.5 + 0.5 * tanh(scores[number] / 2) if is_probability else None)
                for number in order
            ),
        )
