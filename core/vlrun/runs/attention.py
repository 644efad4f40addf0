"""What a model looks at: the attention of texts to the regions of images, where the backbone shows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlrun.blocks.attention import record_attention
from vlrun.blocks.tokenizer import FileTokenizer
from vlrun.blocks.wordpiece import WordPiece
from vlrun.interfaces.examples import Pair
from vlrun.interfaces.question import Box, RegionAttention
from vlrun.interfaces.run_view import RunView


@torch.inference_mode()
def region_attention(run: RunView, pairs: Sequence[Pair]) -> tuple[RegionAttention, ...]:
    """The attention in a forward pass of these pairs; none if the backbone's layers do not show it.

    The shares of a word are the mean of those of its word pieces.
    """
    regions = run.read_regions([pair.image_id for pair in pairs])
    encoding = run.encode(pairs, regions)
    on_device = encoding.to(run.device)
    with record_attention(on_device) as record, run.autocast():
        run.backbone(on_device)
    shares = record.shares()
    if shares is None:
        return ()
    shares = shares.cpu()
    vocabulary = run.backbone.wordpiece
    found = []
    for row, pair in enumerate(pairs):
        count = int(encoding.region_mask[row].sum())  # a backbone may cut off the last regions
        tokens = shares[row, :, :count]  # (T, regions of the image)
        words = []
        if isinstance(vocabulary, WordPiece | FileTokenizer):
            words = vocabulary.words(encoding.token_ids[row].tolist())
        found.append(
            RegionAttention(
                pair.text,
                pair.image_id,
                tuple(_box(sides) for sides in regions.boxes[row, :count].tolist()),
                tuple(tokens[0].tolist()),
                tuple(word for word, _ in words),
                tuple(tuple(tokens[numbers].mean(dim=0).tolist()) for _, numbers in words),
            )
        )
    return tuple(found)


def _box(sides: Sequence[float]) -> Box:
    left, top, right, bottom = sides
    return left, top, right, bottom
