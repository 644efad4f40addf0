"""From pairs and region features to what the networks read: word pieces, word numbers, box shares, padding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vlrun import DataError, Pair, RegionBatch, first_few
from vlrun.blocks.pair_encoding import LENGTH_STEP, check_feature_size, fit_regions
from vlrun.blocks.wordpiece import SPECIAL_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    from vlrun import Encoding
    from vlrun.blocks.wordpiece import WordPiece

BOX_TOLERANCE = 1e-5
"""Share of the image's width or height by which a box may leave it; the original stops beyond that."""

SPECIAL_POSITION = 1
"""Position of [CLS] and [SEP] in LXMERT-S; padding has 0."""

FIRST_WORD_NUMBER = 2

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def split_words(text: str) -> list[str]:
    """White-space words of ``text`` after cleaning; each Chinese character is a word.

    A special token such as ``[MASK]`` counts as one only if it is a whole word; glued to other characters it is put in
    lower case, which makes ordinary text of it.
    """
    words = _cleaner().normalize_str(text).split()
    if "[" not in text:
        return words
    return [w if w in SPECIAL_TOKENS else _SPECIAL.sub(lambda found: found[0].lower(), w) for w in words]


def word_numbers(words: Sequence[str]) -> list[int]:
    """The number of its word for each basic token: words count from 2, punctuation has the number of its word.

    A word that vanishes, because it is made of accents alone, still takes up a number.
    """
    # One letter in place of a special token, which is one basic token. The words stay one space apart, so the spaces
    # before a basic token are the words before it.
    line = _folder().normalize_str(" ".join("x" if word in SPECIAL_TOKENS else word for word in words))
    basic_tokens = _splitter().pre_tokenize_str(line)
    return [FIRST_WORD_NUMBER + line.count(" ", 0, start) for _, (start, _) in basic_tokens]


def word_positions(pieces: Sequence[str], numbers: Sequence[int]) -> list[int]:
    """The number of its basic token for each word piece.

    A piece that starts with ``#`` belongs to the token before. The test should be for ``##``: a literal ``#`` is
    thought to continue a word, so it and all that follows get the number of the token before, and at the start of a
    text that is the last number. Kept, because the released weights were trained so.
    """
    positions = []
    token = -1
    for piece in pieces:
        if not piece.startswith("#"):
            token += 1
        positions.append(numbers[token])
    return positions


def box_shares(regions: RegionBatch) -> NDArray[np.float32]:
    """``(x1/W, y1/H, x2/W, y2/H)`` of each box, (P, R, 4); zeros where there is no region.

    Raises:
        DataError: a box leaves its image.
    """
    height, width = regions.sizes[:, :1], regions.sizes[:, 1:]
    shares: NDArray[np.float32] = regions.boxes / np.concatenate([width, height, width, height], axis=1)[:, None]
    shares[~regions.mask] = 0.0
    inside = ((shares > -BOX_TOLERANCE) & (shares < 1 + BOX_TOLERANCE)).all(axis=2)  # False for NaN
    if not inside.all():
        problems = [
            f"image '{regions.image_ids[row]}': box {column} {_in_words(regions.boxes[row, column])} leaves the image, "
            f"which is {regions.sizes[row, 1]:g} wide and {regions.sizes[row, 0]:g} high"
            for row, column in np.argwhere(~inside)
        ]
        remedy = (
            "LXMERT takes shares of the image as boxes: correct boxes or sizes, and build the region features again"
        )
        raise DataError([*first_few(list(dict.fromkeys(problems))), remedy])
    return shares


@dataclass(frozen=True)
class LxmertPairEncoder:
    """Text and box pipeline of LXMERT and LXMERT-S.

    Deviation: texts are padded to the longest of the batch, not to ``max_text_tokens``; padding changes no output.

    Attributes:
        backbone: its name, for messages.
        numbers_words: positions are word numbers (LXMERT-S); else there are none, and the network counts tokens.
    """

    backbone: str
    wordpiece: WordPiece
    max_text_tokens: int
    max_positions: int
    numbers_words: bool
    num_regions: int
    region_feature_size: int

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Turns pairs and their regions into tensors.

        Raises:
            DataError: the region features have another width than the network, or a box leaves its image.
        """
        import torch

        from vlrun import Encoding

        check_feature_size(regions, self.region_feature_size, self.backbone)
        # A text is read once: NLVR2 has it with two images, retrieval with many.
        row_of = {text: row for row, text in enumerate(dict.fromkeys(pair.text for pair in pairs))}
        rows = [row_of[pair.text] for pair in pairs]
        texts = [split_words(text) for text in row_of]
        token_ids, text_mask = self.wordpiece.encode_batch(
            [" ".join(words) for words in texts], self.max_text_tokens, round_to=LENGTH_STEP
        )
        positions = self._positions(texts, token_ids.shape[1]) if self.numbers_words else None
        region_mask = fit_regions(regions.mask, self.num_regions)
        return Encoding(
            token_ids=torch.from_numpy(token_ids[rows]),
            text_mask=torch.from_numpy(text_mask[rows]),
            region_features=torch.from_numpy(fit_regions(regions.features, self.num_regions)),
            boxes=torch.from_numpy(fit_regions(box_shares(regions), self.num_regions)),
            region_mask=torch.from_numpy(region_mask),
            position_ids=None if positions is None else torch.from_numpy(positions[rows]),
            full_texts=bool(text_mask.all()),
            full_regions=bool(region_mask.all()),
        )

    def _positions(self, texts: Sequence[Sequence[str]], length: int) -> NDArray[np.int64]:
        """One row per text; a number beyond the table gets its last row, where the original would stop."""
        positions = np.zeros((len(texts), length), dtype=np.int64)
        for row, words in enumerate(texts):
            pieces = self.wordpiece.tokens(" ".join(words))[: self.max_text_tokens - 2]
            inner = word_positions(pieces, word_numbers(words))
            positions[row, : len(inner) + 2] = [SPECIAL_POSITION, *inner, SPECIAL_POSITION]
        return positions.clip(max=self.max_positions - 1)


def _in_words(box: NDArray[np.float32]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


@lru_cache(maxsize=1)
def _cleaner() -> BertNormalizer:
    """Drops control characters, makes all white space alike, puts spaces around Chinese characters."""
    from tokenizers.normalizers import BertNormalizer

    return BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)


@lru_cache(maxsize=1)
def _folder() -> BertNormalizer:
    """Lower case without accents."""
    from tokenizers.normalizers import BertNormalizer

    return BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=True)


@lru_cache(maxsize=1)
def _splitter() -> BertPreTokenizer:
    """Splits at spaces and around each punctuation character."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return BertPreTokenizer()
