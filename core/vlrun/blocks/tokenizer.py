"""Tokenisers from files: BERT's word pieces with or without case, and whatever else a ``tokenizer.json`` describes.

This module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlrun.blocks.wordpiece import WordPiece, bert_case, is_cased, read_vocabulary_file
from vlrun.errors import DataError
from vlrun.files import read_object_or_empty
from vlrun.foreign.json import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

_ROLES: Mapping[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "mask": ("[MASK]", "<mask>"),
}
"""What tokenisers call such tokens, where no file beside them says it."""

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
"""Files of transformers beside a ``tokenizer.json``, which say what is padding and what is masked."""

_BYTE_LEVEL_SPACE, _SENTENCEPIECE_SPACE = "Ġ", "▁"
_NONE = -1


class TextTokenizer(Protocol):
    """What backbones ask of a tokeniser, and masking too. Picklable; loader workers get a copy.

    Attributes:
        size: rows that a table of word embeddings needs.
        hash: identifies vocabulary and rules.
        pad_id: of padding.
        unknown_id: of what cannot be written otherwise; -1 where everything can.
        cls_id, sep_id: of the first and of the last token of a row.
    """

    size: int
    hash: str
    pad_id: int
    unknown_id: int
    cls_id: int
    sep_id: int

    @property
    def mask_id(self) -> int:
        """Id of the token that stands for a masked one; raises DataError where there is none."""
        ...

    @property
    def word_starts(self) -> NDArray[np.bool_]:
        """(size,) True for a token that begins a word; raises DataError where a token alone does not tell."""
        ...

    def ids(self, text: str) -> list[int]:
        """The ids of ``tokens``."""
        ...

    def tokens(self, text: str) -> list[str]:
        """The tokens of ``text``, uncut and without special ones around it."""
        ...

    def words(self, token_ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The words of a row of ``encode_batch``, each with the numbers of its tokens; special tokens are no words."""
        ...

    def encode_batch(
        self, texts: Sequence[str], max_tokens: int, *, round_to: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids (P, L) and mask (P, L) of P texts, as ``WordPiece.encode_batch`` gives them."""
        ...


def read_tokenizer(path: Path) -> WordPiece | FileTokenizer:
    """The tokeniser in a file.

    A text file is a WordPiece vocabulary, a token a line. It is cased, so that case and accents are kept, if a
    ``tokenizer_config.json`` beside it says so (``do_lower_case: false``) or more than a stray token has capitals. A
    ``tokenizer.json`` may be of any kind that the library tokenizers knows.

    Raises:
        DataError: the file is missing or damaged, or lacks tokens that a backbone needs.
    """
    if path.suffix != ".json":
        return WordPiece(path, cased=is_cased(path, read_vocabulary_file(path)))
    case = bert_case(path)
    return FileTokenizer(path) if case is None else WordPiece(path, cased=case == "cased")


class FileTokenizer:
    """The tokeniser of a ``tokenizer.json``, with its own special tokens around a text.

    Attributes as of ``TextTokenizer``.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file, and what lies beside it about special tokens.

        Raises:
            DataError: it cannot be read, or does not put a token before and one after each text.
        """
        from tokenizers import Tokenizer

        self.path = Path(path)
        try:
            content = parse_json(self.path.read_bytes())
            for unused in ("padding", "truncation"):  # ours depend on the batch
                content[unused] = None
            self._text = json.dumps(content, sort_keys=True, ensure_ascii=False)
            tokenizer = Tokenizer.from_str(self._text)
        except OSError as error:
            raise DataError(f"{path}: cannot read the vocabulary: {error.strerror}") from error
        except Exception as error:  # tokenizers raises nothing more special
            raise DataError(f"{path}: not a tokenizer.json of the library tokenizers: {error}") from error
        self.hash = hashlib.sha256(self._text.encode()).hexdigest()[:16]
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=_NONE) + 1
        around: list[int] = tokenizer.encode("").ids
        if len(around) < 2:  # one before, one after
            found = f"{len(around) or 'no'} special token{'s' * (len(around) != 1)}"
            raise DataError(
                f"{path}: it puts {found} around a text; backbones need one before and one after it, as the "
                "post-processor of such a file says ([CLS] and [SEP], say)"
            )
        self.cls_id, self.sep_id = around[0], around[-1]
        settings = dict[str, Any]()
        for name in _SETTINGS:
            settings |= read_object_or_empty(self.path.with_name(name))

        def of_role(role: str) -> int:
            named = settings.get(f"{role}_token")
            token = named.get("content") if isinstance(named, dict) else named
            return next((vocabulary[each] for each in (token, *_ROLES[role]) if each in vocabulary), _NONE)

        model = content["model"]
        pad, unknown = of_role("pad"), model.get("unk_id")
        self.pad_id = self.sep_id if pad == _NONE else pad
        self.unknown_id = of_role("unk") if unknown is None else unknown
        self._mask_id = of_role("mask")
        self._special = frozenset([*around, self.pad_id])
        self._word_end, self._space, self._continuation = _word_marks(content)

    @property
    def mask_id(self) -> int:
        """Id of the token that stands for a masked one.

        Raises:
            DataError: there is none.
        """
        if self._mask_id == _NONE:
            raise DataError(f"{self.path}: this tokeniser has no token for a masked word, such as [MASK] or <mask>")
        return self._mask_id

    @cached_property
    def word_starts(self) -> NDArray[np.bool_]:
        """(size,) True for a token that begins a word, False for one that continues it.

        Raises:
            DataError: a token alone does not tell.
        """
        import numpy as np

        if self._word_end or not (self._space or self._continuation):
            raise DataError(f"{self.path}: the tokens of this tokeniser do not tell by themselves what begins a word")
        tokens = [self._tokenizer.id_to_token(number) or "" for number in range(self.size)]
        return np.array([not self._continues(token, None) for token in tokens])

    def settings(self) -> dict[str, str]:
        """What a ``tokenizer_config.json`` beside the file has to say, so that the same tokens get the same roles."""
        of_roles = {"pad": self.pad_id, "unk": self.unknown_id, "mask": self._mask_id}
        tokens = {
            f"{role}_token": self._tokenizer.id_to_token(number) for role, number in of_roles.items() if number >= 0
        }
        return {role: token for role, token in tokens.items() if token}

    def ids(self, text: str) -> list[int]:
        """The ids of ``tokens``."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def tokens(self, text: str) -> list[str]:
        """The tokens of ``text``, uncut and without special ones around it."""
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    def words(self, token_ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The words of a row of ``encode_batch``, each with the numbers of its tokens; special tokens are no words."""
        return [
            (
                self._tokenizer.decode([token_ids[number] for number in numbers], skip_special_tokens=False).strip(),
                numbers,
            )
            for numbers in self._grouped(token_ids)
        ]

    def encode_batch(
        self, texts: Sequence[str], max_tokens: int, *, round_to: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Encodes each text with its special tokens, cut to ``max_tokens`` and padded to the longest length L.

        Args, shapes and rounding as of ``WordPiece.encode_batch``.
        """
        from vlrun.blocks.wordpiece import padded

        self._tokenizer.enable_truncation(max_tokens)
        try:
            rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        finally:
            self._tokenizer.no_truncation()
        return padded(rows, self.pad_id, max_tokens, round_to)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of a worker
        return Tokenizer.from_str(self._text)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}

    def _grouped(self, token_ids: Sequence[int]) -> Iterator[list[int]]:
        group: list[int] = []
        before: str | None = None
        for number, token_id in enumerate(token_ids):
            if token_id in self._special:
                continue
            token = self._tokenizer.id_to_token(token_id) or ""
            if group and not self._continues(token, before):
                yield group
                group = []
            group.append(number)
            before = token
        if group:
            yield group

    def _continues(self, token: str, before: str | None) -> bool:
        """Whether a token continues the word of the token before it."""
        if self._word_end:
            return before is not None and not before.endswith(self._word_end)
        if self._continuation:
            return token.startswith(self._continuation)
        return bool(self._space) and not token.startswith(self._space)


def _word_marks(content: Mapping[str, Any]) -> tuple[str, str, str]:
    """What ends a word (CLIP), what begins one (RoBERTa, SentencePiece) and what continues one (BERT); one or none."""
    model = content["model"]
    if model.get("end_of_word_suffix"):
        return model["end_of_word_suffix"], "", ""
    if model.get("type") == "WordPiece":
        return "", "", model.get("continuing_subword_prefix") or ""
    rules = json.dumps([content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False)
    if _SENTENCEPIECE_SPACE in rules:
        return "", _SENTENCEPIECE_SPACE, ""
    return "", _BYTE_LEVEL_SPACE if '"ByteLevel"' in rules else "", ""
