"""What a masking rule decided for each pair -> what the model sees of a batch, and the targets that follow.

P pairs, L tokens, R regions, D width of the features, K words to guess, M hidden regions, N regions to classify.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlrun import DataError, Encoding, RegionBatch, RegionFeatures, Unmasked
from vlrun_pretraining.rule import LOSS_SHARE, Hidden, Shown

CLASS_ARRAYS = ("class_ids", "class_scores", "attribute_ids", "attribute_scores")


def regions_of(batch: RegionBatch, row: int) -> RegionFeatures:
    """The regions of one image of a batch, without padding, as views."""
    count = int(batch.mask[row].sum())
    arrays = {name: getattr(batch, name) for name in CLASS_ARRAYS}
    return RegionFeatures(
        batch.image_ids[row],
        batch.features[row, :count],
        batch.boxes[row, :count],
        int(batch.sizes[row, 0]),
        int(batch.sizes[row, 1]),
        **{name: None if array is None else array[row, :count] for name, array in arrays.items()},
    )


def hide_words(
    encoding: Encoding, hidden: Sequence[Hidden], counts: NDArray[np.bool_]
) -> tuple[Encoding, dict[str, Tensor]]:
    """Shows what is shown in place of words.

    Args:
        counts: (P,) whether the words of a pair have to be guessed; if not, they are hidden all the same.

    Returns:
        The encoding, and ``word_rows``, ``word_places``, ``word_labels``: (K,) int64.
    """
    rows = np.repeat(np.arange(len(hidden)), [len(pair.word_places) for pair in hidden])
    places = np.concatenate([pair.word_places for pair in hidden])
    shown = torch.from_numpy(np.concatenate([pair.shown_ids for pair in hidden]))
    labels = encoding.token_ids[rows, places]
    token_ids = encoding.token_ids.clone()
    token_ids[rows, places] = shown
    kept = counts[rows]
    targets = {"word_rows": rows[kept], "word_places": places[kept], "word_labels": labels.numpy()[kept]}
    return replace(encoding, token_ids=token_ids), _tensors(targets)


def hide_regions(
    encoding: Encoding, hidden: Sequence[Hidden], unmasked: Unmasked[Any], counts: NDArray[np.bool_]
) -> tuple[Encoding, dict[str, Tensor]]:
    """Shows other features in place of those of regions; boxes stay, so that the model knows where it has to look.

    Returns:
        The encoding, and ``region_rows``, ``region_places``: (M,) int64; ``region_features``: (M, D) that were there,
        in the type of the store.
    """
    most = encoding.region_mask.shape[1]
    entries = [
        (row, place, shown)
        for row, pair in enumerate(hidden)
        for place, shown in zip(pair.region_places, pair.shown_regions, strict=True)
        if place < most  # the backbone may see fewer
    ]
    rows = np.array([row for row, _, _ in entries], np.int64)
    places = np.array([place for _, place, _ in entries], np.int64)
    wanted = encoding.region_features[rows, places]
    features = encoding.region_features.clone()
    features[rows, places] = _shown_features(wanted, rows, [shown for _, _, shown in entries], unmasked)
    kept = counts[rows]
    targets = {"region_rows": rows[kept], "region_places": places[kept]}
    return replace(encoding, region_features=features), {
        **_tensors(targets),
        "region_features": wanted[torch.from_numpy(kept)],
    }


def _shown_features(wanted: Tensor, rows: NDArray[np.int64], shown: Sequence[Shown], unmasked: Unmasked[Any]) -> Tensor:
    """(M, D): zeros, features of the own image, or of others, which are read together."""
    own = unmasked.regions
    features = torch.zeros_like(wanted)
    others = {
        entry.image_id: 0
        for row, entry in zip(rows, shown, strict=True)
        if entry.image_id is not None and entry.image_id != own.image_ids[row]
    }
    read = unmasked.read_regions(list(others)) if others else own
    others = {image_id: place for place, image_id in enumerate(others)}
    for place, (row, entry) in enumerate(zip(rows, shown, strict=True)):
        if entry.image_id is None:
            continue
        batch, image = (own, row) if entry.image_id == own.image_ids[row] else (read, others[entry.image_id])
        count = int(batch.mask[image].sum())
        if count:  # a detector that found nothing has nothing to show
            features[place] = torch.from_numpy(np.asarray(batch.features[image, entry.region % count]))
    return features


def region_classes(
    encoding: Encoding,
    regions: RegionBatch,
    of_regions: Mapping[str, Tensor],
    counts: NDArray[np.bool_],
    limits: Mapping[str, int],
    *,
    all_regions: bool,
) -> dict[str, Tensor]:
    """The detector's classes and attributes where they have to be guessed.

    Args:
        of_regions: what ``hide_regions`` returned.
        limits: how many ``classes`` and ``attributes`` there are, as far as they are learned.
        all_regions: guess those of all regions that the backbone sees, or of the hidden ones alone.

    Returns:
        ``class_rows``, ``class_places``: (N,) int64; ``class_is_hidden``: (N,) bool, whether the features are;
        ``class_labels``, ``attribute_labels``: (N,) int64; ``class_weights``, ``attribute_weights``: (N,) float32, the
        detector's confidence.

    Raises:
        DataError: the store has no classes, or other ones.
    """
    rows, places = (of_regions[f"region_{name}"].numpy() for name in ("rows", "places"))
    is_hidden = np.zeros(encoding.region_mask.shape, np.bool_)
    is_hidden[rows, places] = True
    if all_regions:
        width = regions.mask.shape[1]  # padding of the encoding beyond it is no region
        seen = encoding.region_mask.numpy()[:, :width] & counts[:, None]
        rows, places = np.nonzero(seen)
    targets = {"class_rows": rows, "class_places": places, "class_is_hidden": is_hidden[rows, places]}
    for plural, kind in (("classes", "class"), ("attributes", "attribute")):
        if plural not in limits:
            continue
        ids, scores = getattr(regions, f"{kind}_ids"), getattr(regions, f"{kind}_scores")
        if ids is None or scores is None:
            raise DataError(
                f"the region features have no {plural} with confidences, which the loss '{plural}' needs. Import them "
                f"from a source that has them, such as LXMERT's or ROSITA's files, or leave '{plural}' out of losses"
            )
        targets[f"{kind}_labels"] = labels = ids[rows, places].astype(np.int64)
        targets[f"{kind}_weights"] = scores[rows, places].astype(np.float32)
        if len(labels) and not 0 <= labels.min() <= labels.max() < limits[plural]:
            odd = int(labels[(labels < 0) | (labels >= limits[plural])][0])
            raise DataError(
                f"the region features have {kind} {odd}, and the task's num_{plural} says that there are "
                f"{limits[plural]:,}, from 0 on"
            )
    return _tensors(targets)


def region_counts(
    encoding: Encoding, targets: Mapping[str, Tensor], counts: NDArray[np.bool_], all_regions: bool
) -> dict[str, Tensor]:
    """What the losses of regions are divided by: ``feature_count``, ``class_count``, ``attribute_count``, scalars."""
    if all_regions:
        share = LOSS_SHARE * float((encoding.region_mask.numpy() & counts[:, None]).sum())
        return {f"{kind}_count": torch.tensor(share, dtype=torch.float64) for kind in ("feature", "class", "attribute")}
    of_classes = {
        f"{kind}_count": (targets[f"{kind}_weights"] > 0).sum()
        for kind in ("class", "attribute")
        if f"{kind}_weights" in targets
    }
    return {"feature_count": torch.tensor(len(targets["region_rows"])), **of_classes}


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
