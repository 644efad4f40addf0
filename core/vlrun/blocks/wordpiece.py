"""The WordPiece tokeniser of BERT (uncased), which several backbones use (this module imports no torch)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.errors import DataError
from vlrun.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 100
"""Longer words become [UNK], as in BERT."""


class WordPiece:
    """A vocabulary and its tokeniser. It can be pickled, so loader workers do not read the file.

    Attributes:
        size: number of tokens; a token's id is the number of its line in the file, from 0.
        hash: identifies the vocabulary; it does not depend on the kind of line ends.
        pad_id, unknown_id, cls_id, sep_id, mask_id: ids of the special tokens.
    """

    def __init__(self, vocabulary: Path) -> None:
        """Reads ``vocabulary``, one token a line.

        Raises:
            DataError: the file is missing, not text, repeats a token, or lacks a special token.
        """
        tokens = _read_vocabulary(Path(vocabulary))
        self.size = len(tokens)
        self.hash = hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:16]
        self._vocabulary = {token: index for index, token in enumerate(tokens)}
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (
            self._vocabulary[token] for token in SPECIAL_TOKENS
        )

    def tokens(self, text: str) -> list[str]:
        """The word pieces of ``text``, uncut and without [CLS] and [SEP]."""
        pieces: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return pieces

    def encode_batch(
        self, texts: Sequence[str], max_tokens: int, *, round_to: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Encodes each text as ``[CLS] pieces [SEP]``, cut to ``max_tokens`` and padded to the longest length L.

        Args:
            texts: P texts.
            max_tokens: longest row allowed, [CLS] and [SEP] included; at least 2.
            round_to: L is rounded up to a multiple of this (not above ``max_tokens``), so that shapes repeat.

        Returns:
            Token ids (P, L) and mask (P, L), True for a real token.
        """
        import numpy as np

        rows = [
            [self.cls_id, *encoding.ids[: max_tokens - 2], self.sep_id]
            for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)
        ]
        longest = max((len(row) for row in rows), default=2)
        length = min(-(-longest // round_to) * round_to, max_tokens)
        token_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.bool_)
        for index, row in enumerate(rows):
            token_ids[index, : len(row)] = row
            mask[index, : len(row)] = True
        return token_ids, mask

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import AddedToken, Tokenizer, models

        # Loader workers already run in parallel, and threads of the tokeniser would not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        model = models.WordPiece(self._vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_LENGTH)  # noqa: S106
        tokenizer = Tokenizer(model)
        _split_like_bert(tokenizer)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}


def train_wordpiece(texts: Iterable[str], size: int, path: Path) -> WordPiece:
    """Learns a vocabulary of at most ``size`` tokens from ``texts`` and writes it; the same texts give the same file.

    The special tokens come first, [PAD] at 0.
    """
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    _split_like_bert(tokenizer)
    texts = list(texts)
    alphabet = sorted({character for text in texts for character in tokenizer.normalizer.normalize_str(text)} - {" "})
    # The trainer numbers continuation letters in hash order, which differs between processes, and breaks ties by these
    # numbers; given as "special" tokens, the letters have fixed numbers from the start.
    continuations = [f"##{character}" for character in alphabet if character.isalnum()]
    fixed = [*SPECIAL_TOKENS, *alphabet, *continuations]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=fixed, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab(with_added_tokens=False)
    write_text(path, "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__)))
    return WordPiece(path)


def _split_like_bert(tokenizer: Tokenizer) -> None:
    """Sets BERT's rules: drop control characters and accents, split CJK characters and punctuation, lower-case."""
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def _read_vocabulary(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:  # not str.splitlines, which also splits at rarer characters
            tokens = [line.rstrip("\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: cannot read the vocabulary: {reason}") from error
    lines: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if lines.setdefault(token, number) != number:
            raise DataError(f"{path}:{number}: token '{token}' is already on line {lines[token]}")
    missing = [token for token in SPECIAL_TOKENS if token not in lines]
    if missing:
        raise DataError(
            f"{path}: {', '.join(missing)} missing among {len(tokens)} lines; expected a WordPiece vocabulary, "
            "one token a line, such as the vocab.txt of bert-base-uncased"
        )
    return tokens
