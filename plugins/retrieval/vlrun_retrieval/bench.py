"""How fast pairs are scored here, for ``runner bench``: the engine beside a plain loop over the same network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vlrun import ByTurns, CheckpointError, Encoding, Measurement, Pair, RunView, full_precision
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.config import MatchingConfig
from vlrun_retrieval.scorer import PairScorer

PLAIN = "plain loop, fp32"
_ABOUT_PLAIN = "baseline: an image with 32 texts at a time, padded to the longest allowed, everything computed anew"
_PLAIN_TEXTS = 32
_QUANTILES = (1 / 4, 3 / 4)  # of the lengths of texts, at which the engine is measured
_TOLERANCE = 1e-3
_COCO_PAIRS = 5_000 * 25_010
"""Every image of COCO's test split with every text of it."""


@dataclass(frozen=True)
class _Tile:
    """Texts of one length with images, as the engine takes them."""

    rows: np.ndarray
    image_ids: Sequence[str]

    @property
    def pairs(self) -> int:
        return len(self.rows) * len(self.image_ids)


def measured(
    run: RunView, pool: CandidatePool, config: MatchingConfig, to_scores: Callable[[Tensor], Tensor], by_turns: ByTurns
) -> list[Measurement]:
    """Pairs per second of the engine and of a plain loop, over texts and images of a split.

    Raises:
        CheckpointError: both give different scores.
    """
    scorer = PairScorer.of_run(run, to_scores)
    with scorer.at_work():
        texts = scorer.encoded(pool.texts, pool.image_ids[0])
        at_once = _pairs_in_a_tile(scorer, pool, config)
        tiles = [_tile(pool, texts.lengths, quantile, at_once) for quantile in _QUANTILES]
        parts = [(scorer.text_part(texts, tile.rows), scorer.region_part(tile.image_ids)) for tile in tiles]
        rows = np.resize(np.arange(len(pool.texts)), _PLAIN_TEXTS)
        batch = _padded(_encoded(run, pool, rows, pool.image_ids[0]), config.max_text_tokens).to(run.device)
        difference = _difference(run, scorer, pool, tiles[0], parts[0])
        text, images = tiles[-1].rows, list(tiles[-1].image_ids)
        seconds = by_turns(
            {
                PLAIN: lambda: _forward_scores(scorer, batch),
                "short": lambda: scorer.all_pairs(*parts[0]),
                "long": lambda: scorer.all_pairs(*parts[1]),
                "texts": lambda: scorer.text_part(texts, text),
                "images": lambda: scorer.region_part(images),
            }
        )
    plain = _PLAIN_TEXTS / seconds[PLAIN]
    rate = sum(tile.pairs for tile in tiles) / (seconds["short"] + seconds["long"])
    hours = _COCO_PAIRS / rate / run.ranks.world_size / 3600
    note = f"{tiles[0].pairs} pairs at once; scores differ from the network's own by {difference:.0e} at most"
    return [
        Measurement("retrieval", "pairs", rate, "pairs/s", {PLAIN: rate / plain}, note),
        Measurement("retrieval", PLAIN, plain, "pairs/s", note=_ABOUT_PLAIN),
        Measurement("retrieval", "texts, each once", len(text) / seconds["texts"], "texts/s"),
        Measurement("retrieval", "images, each once", len(images) / seconds["images"], "images/s"),
        Measurement("retrieval", "all pairs of COCO's 5k test split", hours, "h", note="125 M, at this rate"),
    ]


def _pairs_in_a_tile(scorer: PairScorer, pool: CandidatePool, config: MatchingConfig) -> int:
    """As an evaluation takes them; on a CPU a tile for a GPU would take half a minute."""
    own = scorer.pairs_at_once(pool.image_ids[0])
    if scorer.device.type == "cpu":
        return min(own, config.pairs_per_batch or own)
    return config.pairs_per_batch or own


def _tile(pool: CandidatePool, lengths: np.ndarray, quantile: float, pairs: int) -> _Tile:
    length = np.quantile(lengths, quantile, method="nearest")
    num_texts = min(_PLAIN_TEXTS, pairs)
    rows = np.resize(np.flatnonzero(lengths == length), num_texts)
    images = [pool.image_ids[row % len(pool.image_ids)] for row in range(max(1, pairs // num_texts))]
    return _Tile(rows, images)


def _encoded(run: RunView, pool: CandidatePool, rows: np.ndarray, image_id: str) -> Encoding:
    pairs = [Pair(pool.texts[row], image_id) for row in rows]
    return run.encode(pairs, run.read_regions([image_id] * len(pairs)))


def _padded(encoding: Encoding, longest: int) -> Encoding:
    more = (0, longest - encoding.token_ids.shape[1])
    names = ("token_ids", "text_mask", "position_ids")
    values = {name: getattr(encoding, name) for name in names}
    return replace(encoding, **{name: pad(value, more) for name, value in values.items() if value is not None})


def _forward_scores(scorer: PairScorer, batch: Encoding) -> Tensor:
    """Without autocast, whatever the experiment asks for."""
    return scorer.to_scores(scorer.matcher.logits(scorer.backbone(batch).pooled))


def _difference(run: RunView, scorer: PairScorer, pool: CandidatePool, tile: _Tile, parts: tuple[object, ...]) -> float:
    """How far the engine's scores of a tile's first image are from those of ``forward``."""
    batch = _encoded(run, pool, tile.rows, tile.image_ids[0]).to(run.device)
    with run.autocast():
        pooled = scorer.backbone(batch).pooled
    forward = scorer.to_scores(scorer.matcher.logits(full_precision(pooled)))
    text, images = parts
    difference = float((scorer.all_pairs(text, images)[0] - forward).abs().max())  # type: ignore[arg-type]
    is_exact = pooled.dtype == torch.float32 and run.device.type == "cpu"
    if is_exact and not difference <= _TOLERANCE:
        raise CheckpointError(f"the scores of the engine and of forward() differ by {difference:.1e}")
    return difference
