"""The WordPiece tokeniser of BERT, which several backbones use (this module imports no torch)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlrun.errors import DataError
from vlrun.files import read_object_or_empty, write_text
from vlrun.foreign.json import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 100
"""Longer words become [UNK], as in BERT."""

MOST_CAPITALS = 0.01
"""Share of tokens with capitals from which a vocabulary counts as cased; those of BERT have none and a third."""

_PUNCTUATION = re.compile(r"(?:_|[^\w\s])+")
_IN_BRACKETS = re.compile(r"\[.*\]")  # special tokens and places kept free


def without_punctuation(text: str) -> str:
    """Deletes underscores and whatever is neither a word character nor a space, and puts nothing in their place."""
    return _PUNCTUATION.sub("", text)


class WordPiece:
    """A vocabulary and its tokeniser. It can be pickled, so loader workers do not read the file.

    Attributes:
        size: number of tokens; a token's id is the number of its line in the file, from 0.
        cased: whether texts keep case and accents.
        hash: identifies the vocabulary; it does not depend on the kind of line ends.
        pad_id, unknown_id, cls_id, sep_id, mask_id: ids of the special tokens.
    """

    def __init__(self, vocabulary: Path, *, cased: bool = False) -> None:
        """Reads ``vocabulary``: a file with one token a line, or the ``tokenizer.json`` of ``tokenizers``.

        Args:
            cased: whether texts keep case and accents, as for bert-base-cased; ``read_tokenizer`` finds that out.

        Raises:
            DataError: the file is missing, damaged, repeats a token or lacks a special one, is of the other case, or
                belongs to a tokeniser of another kind.
        """
        tokens = read_vocabulary(Path(vocabulary), cased=cased)
        self.size, self.cased = len(tokens), cased
        marked = [*tokens, "\x1fcased"] if cased else tokens  # the same tokens split text in another way
        self.hash = hashlib.sha256("\n".join(marked).encode()).hexdigest()[:16]
        self._vocabulary = {token: index for index, token in enumerate(tokens)}
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (
            self._vocabulary[token] for token in SPECIAL_TOKENS
        )

    @cached_property
    def word_starts(self) -> NDArray[np.bool_]:
        """(size,) True for a token that begins a word, False for one that continues it."""
        import numpy as np

        return np.array([not token.startswith("##") for token in self._vocabulary])

    def ids(self, text: str) -> list[int]:
        """The ids of ``tokens``."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def tokens(self, text: str) -> list[str]:
        """The word pieces of ``text``, uncut and without [CLS] and [SEP]."""
        pieces: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return pieces

    def words(self, token_ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The words of a row of ``encode_batch``, each with the numbers of its tokens; special tokens are no words."""
        words: list[tuple[str, list[int]]] = []
        for number, token_id in enumerate(token_ids):
            token: str = self._tokenizer.id_to_token(token_id) or ""
            if token_id in (self.pad_id, self.cls_id, self.sep_id):
                continue
            if token.startswith("##") and words:
                words[-1] = (words[-1][0] + token.removeprefix("##"), [*words[-1][1], number])
            else:
                words.append((token, [number]))
        return words

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
        rows = [
            [self.cls_id, *encoding.ids[: max_tokens - 2], self.sep_id]
            for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)
        ]
        return padded(rows, self.pad_id, max_tokens, round_to)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import AddedToken, Tokenizer, models

        # Loader workers already run in parallel, and threads of the tokeniser would not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        model = models.WordPiece(self._vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_LENGTH)  # noqa: S106
        tokenizer = Tokenizer(model)
        _split_like_bert(tokenizer, cased=self.cased)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}


def padded(
    rows: Sequence[Sequence[int]], pad_id: int, max_tokens: int, round_to: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of ids as one array (P, L), and which are real (P, L); see ``WordPiece.encode_batch``."""
    import numpy as np

    longest = max((len(row) for row in rows), default=2)
    length = min(-(-longest // round_to) * round_to, max_tokens)
    token_ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.bool_)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return token_ids, mask


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


def _split_like_bert(tokenizer: Tokenizer, *, cased: bool = False) -> None:
    """Sets BERT's rules: drop control characters, split CJK characters and punctuation; uncased: drop accents, case."""
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=not cased, lowercase=not cased
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def read_vocabulary(path: Path, *, cased: bool = False) -> list[str]:
    """The tokens of a file of either kind that ``WordPiece`` takes, in the order of their ids.

    Raises:
        DataError: as ``WordPiece`` raises it.
    """
    tokens = _tokens_of_json(path, _read(path), cased=cased) if path.suffix == ".json" else read_vocabulary_file(path)
    places: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if places.setdefault(token, number) != number:
            raise DataError(f"{path}:{number}: token '{token}' is already on line {places[token]}")
    missing = [token for token in SPECIAL_TOKENS if token not in places]
    if missing:
        raise DataError(
            f"{path}: {', '.join(missing)} missing among {len(tokens)} tokens; expected a WordPiece vocabulary, "
            "one token a line, such as the vocab.txt of bert-base-uncased, or its tokenizer.json"
        )
    if not cased:
        _refuse_cased(path, tokens)
    return tokens


def read_vocabulary_file(path: Path) -> list[str]:
    """The lines of a text file, a token each; nothing else is checked.

    Raises:
        DataError: it cannot be read.
    """
    text = _read(path)
    return text.removesuffix("\n").split("\n") if text else []  # not str.splitlines, which splits at rarer characters


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: cannot read the vocabulary: {reason}") from error


def bert_case(path: Path) -> Literal["cased", "uncased"] | None:
    """Which of BERT's tokenisers a ``tokenizer.json`` describes; None: one of another kind.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    text = _read(path)
    for case in ("uncased", "cased"):
        if not _wrong_claims(path, text, cased=case == "cased")[1]:
            return case
    return None


def _wrong_claims(path: Path, text: str, *, cased: bool) -> tuple[list[str], list[str]]:
    """The tokens of a ``tokenizer.json``, and what does not hold of it so that ``WordPiece`` could stand in for it.

    Raises:
        DataError: it is damaged.
    """
    try:
        content = parse_json(text)
        model, normaliser, splitter = content["model"], content["normalizer"] or {}, content["pre_tokenizer"] or {}
        is_wordpiece = model.get("type", "WordPiece") == "WordPiece"
        vocabulary = model["vocab"] if is_wordpiece else {}
        ids = {**vocabulary, **{added["content"]: added["id"] for added in content.get("added_tokens") or ()}}
        tokens = sorted(ids, key=ids.__getitem__)
        is_numbered = [ids[token] for token in tokens] == list(range(len(tokens)))
        lower = normaliser.get("lowercase", normaliser.get("type") == "Lowercase")
        found = {
            "its model is WordPiece": is_wordpiece and model.get("continuing_subword_prefix", "##") == "##",
            "it keeps case" if cased else "it is uncased (lowercase)": bool(lower) is not cased,
            "it normalises and splits as BERT does": (normaliser.get("type"), splitter.get("type"))
            == ("BertNormalizer", "BertPreTokenizer")
            and normaliser.get("strip_accents") in (None, not cased)
            and normaliser.get("handle_chinese_chars", True)
            and normaliser.get("clean_text", True),
            "its ids are 0, 1, 2, ...": is_numbered or not is_wordpiece,
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a tokenizer.json of the library tokenizers with a WordPiece model; give that, or vocab.txt"
        ) from error
    return tokens, [claim for claim, holds in found.items() if not holds]


def _tokens_of_json(path: Path, text: str, *, cased: bool) -> list[str]:
    """The vocabulary in a ``tokenizer.json``.

    Raises:
        DataError: it is damaged, or of a tokeniser that splits text in another way than this one.
    """
    tokens, wrong = _wrong_claims(path, text, cased=cased)
    if wrong:
        raise DataError(f"{path}: this tokeniser cannot stand in for it, for these do not hold: {'; '.join(wrong)}")
    return tokens


def is_cased(path: Path, tokens: Sequence[str]) -> bool:
    """Whether a vocabulary keeps case: more than a stray token has capitals, or ``tokenizer_config.json`` says so."""
    return bool(_why_cased(path, tokens))


def _why_cased(path: Path, tokens: Sequence[str]) -> str:
    """What shows that a vocabulary is cased; empty: nothing does."""
    capitals = [token for token in tokens if token != token.lower() and not _IN_BRACKETS.fullmatch(token)]
    config = path.with_name("tokenizer_config.json")
    keeps_case = config != path and read_object_or_empty(config).get("do_lower_case") is False
    if not keeps_case and len(capitals) <= MOST_CAPITALS * len(tokens):
        return ""
    shown = ", ".join(f"'{token}'" for token in capitals[:3])
    return f"{len(capitals):,} of its tokens have capitals, such as {shown}" if capitals else f"{config} says so"


def _refuse_cased(path: Path, tokens: Sequence[str]) -> None:
    """Refuses a vocabulary with capitals, all of which would be out of reach: texts are lower-cased.

    Raises:
        DataError: it is cased.
    """
    if why := _why_cased(path, tokens):
        raise DataError(
            f"{path}: a cased vocabulary ({why}), but this backbone lower-cases all text. Weights of an uncased model "
            "need the vocabulary that they were trained with, such as that of bert-base-uncased; cased models need a "
            "backbone that reads any tokeniser (vlrun.blocks.tokenizer)"
        )
