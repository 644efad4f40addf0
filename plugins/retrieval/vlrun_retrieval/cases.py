"""Predictions of queries for whoever reads them: what was asked, what came first, and where the right candidate is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlrun import Case, Prediction, View
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.metric import image_query
from vlrun_retrieval.ranking import QueryRanks, TiePolicy


def query_cases(predictions: Sequence[Prediction], pool: CandidatePool, ties: TiePolicy) -> Iterator[Case]:
    """The query of each prediction, in order; a text looks for its image, an image for any of its texts."""
    text_rows = {name: row for row, name in enumerate(pool.text_ids)}
    image_rows = {image_query(name): row for row, name in enumerate(pool.image_ids)}
    for prediction in predictions:
        best = prediction.fields.get("best") or []
        ranks = _ranks(prediction.fields.get("ranks"), ties)
        if (row := text_rows.get(prediction.id)) is not None:
            yield _of_text(prediction.id, pool, row, best, ranks)
        elif (row := image_rows.get(prediction.id)) is not None:
            items = {name: pool.texts[text_rows[name]] for name in best if name in text_rows}
            yield _of_image(prediction.id, pool, row, best, ranks, items)
        else:
            yield Case(prediction.id)


def _of_text(name: str, pool: CandidatePool, row: int, best: Sequence[str], ranks: Mapping[str, int]) -> Case:
    own = pool.image_ids[pool.owner[row]]
    first = best[0] if best else ""
    views = [View(own, "right")] if first in ("", own) else [View(first, "ranked first"), View(own, "right")]
    return Case(
        name,
        texts=(pool.texts[row],),
        truth={"image": own, "rank": dict(ranks)},
        predicted=f"image {first}" if first else "nothing",
        right=_in_words(f"image {own}", ranks),
        credit=_credit(ranks),
        question="image retrieval",
        views=tuple(views),
    )


def _of_image(
    name: str, pool: CandidatePool, row: int, best: Sequence[str], ranks: Mapping[str, int], items: Mapping[str, str]
) -> Case:
    texts = pool.texts_of(row).tolist()
    return Case(
        name,
        image_ids=(pool.image_ids[row],),
        truth={"texts": [pool.text_ids[text] for text in texts], "rank": dict(ranks)},
        items=items,
        predicted=items.get(best[0], best[0]) if best else "nothing",
        right=_in_words(" / ".join(pool.texts[text] for text in texts), ranks),
        credit=_credit(ranks),
        question="text retrieval",
        views=(View(pool.image_ids[row]),),
    )


def _ranks(given: Any, ties: TiePolicy) -> dict[str, int]:
    """Protocol -> rank of the best right candidate, from 1."""
    known = given if isinstance(given, Mapping) else {}
    return {
        name: int(QueryRanks(*np.array(values, np.int64).reshape(3, 1)).ranks(ties)[0]) + 1
        for name, values in known.items()
    }


def _credit(ranks: Mapping[str, int]) -> float | None:
    """Whether a right candidate is first, under the first protocol."""
    return float(next(iter(ranks.values())) == 1) if ranks else None


def _in_words(right: str, ranks: Mapping[str, int]) -> str:
    places = " and ".join(str(rank) for rank in dict.fromkeys(ranks.values()))
    return f"{right} (rank {places})" if places else right
