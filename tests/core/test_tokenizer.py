"""Tokenisers from files: with case, and of other kinds than BERT's."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from vlrun import DataError
from vlrun.blocks.tokenizer import FileTokenizer, read_tokenizer
from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece

TEXTS = ("A Cat, running dogs", "naïve cafés in Paris", "a", "the the cat cat running running on Paris", "")
BERT = (
    *SPECIAL_TOKENS,
    "A",
    "Cat",
    "cat",
    "Paris",
    "##s",
    "dog",
    "run",
    "##ning",
    ",",
    "in",
    "the",
    "na",
    "##ï",
    "##ve",
)


def write_vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in BERT), encoding="utf-8")
    return path


def roberta(path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS for _ in range(3)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(path))


def clip(path: Path) -> None:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<|startoftext|>", 0), False, False)
    tokenizer.save(str(path))


def sentencepiece(path: Path) -> None:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(path))


KINDS = [pytest.param(make, id=make.__name__) for make in (roberta, clip, sentencepiece)]
Make = Callable[[Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokenizer.json"


# --- case ---


def test_a_cased_vocabulary_splits_as_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = write_vocabulary(tmp_path)
    theirs = transformers.BertTokenizerFast(vocab=str(vocabulary), do_lower_case=False, strip_accents=None)

    ours = read_tokenizer(vocabulary)

    assert isinstance(ours, WordPiece)
    assert ours.cased
    assert [ours.tokens(text) for text in TEXTS] == [theirs.tokenize(text) for text in TEXTS]
    assert "Paris" in ours.tokens(TEXTS[1])


def test_a_cased_json_is_the_same_tokeniser_as_the_text_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = write_vocabulary(tmp_path)
    transformers.BertTokenizerFast(vocab=str(vocabulary), do_lower_case=False).save_pretrained(tmp_path / "saved")

    from_json = read_tokenizer(tmp_path / "saved" / "tokenizer.json")

    assert from_json.hash == read_tokenizer(vocabulary).hash
    assert from_json.tokens(TEXTS[0]) == read_tokenizer(vocabulary).tokens(TEXTS[0])


def test_case_belongs_to_what_a_vocabulary_is(tmp_path: Path) -> None:
    tokens = [*SPECIAL_TOKENS, "cat"]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(tokens))
    uncased = read_tokenizer(vocabulary)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = read_tokenizer(vocabulary)

    assert (uncased.tokens("CAT"), cased.tokens("CAT")) == (["cat"], ["[UNK]"])
    assert uncased.hash != cased.hash


# --- other kinds ---


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("max_tokens", [3, 6, 40])
def test_rows_are_those_of_transformers(path: Path, make: Make, max_tokens: int) -> None:
    transformers = pytest.importorskip("transformers")
    make(path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))

    token_ids, mask = read_tokenizer(path).encode_batch(TEXTS, max_tokens)

    expected = [theirs(text, truncation=True, max_length=max_tokens)["input_ids"] for text in TEXTS]
    assert [row[real].tolist() for row, real in zip(token_ids, mask, strict=True)] == expected


@pytest.mark.parametrize("make", KINDS)
def test_a_tokeniser_says_what_its_tokens_are_for(path: Path, make: Make) -> None:
    make(path)
    tokenizer = read_tokenizer(path)
    assert isinstance(tokenizer, FileTokenizer)

    token_ids, mask = tokenizer.encode_batch(TEXTS, 40, round_to=4)

    assert token_ids.shape[1] % 4 == 0
    assert (token_ids[:, 0] == tokenizer.cls_id).all()
    assert (token_ids[np.arange(len(TEXTS)), mask.sum(axis=1) - 1] == tokenizer.sep_id).all()
    assert (token_ids[~mask] == tokenizer.pad_id).all()
    assert 0 <= token_ids.min() <= token_ids.max() < tokenizer.size


@pytest.mark.parametrize("make", KINDS)
def test_words_join_the_tokens_that_they_are_made_of(path: Path, make: Make) -> None:
    make(path)
    tokenizer = read_tokenizer(path)
    token_ids, _ = tokenizer.encode_batch(["running cats on Paris"], 40)

    words = tokenizer.words(token_ids[0].tolist())

    assert [word for word, _ in words] == ["running", "cats", "on", "Paris"]
    assert sorted(number for _, numbers in words for number in numbers) == list(range(1, token_ids.shape[1] - 1))


@pytest.mark.parametrize("make", [roberta, sentencepiece])
def test_tokens_that_begin_words_are_known(path: Path, make: Make) -> None:
    make(path)
    tokenizer = read_tokenizer(path)
    (row,), _ = tokenizer.encode_batch([" running cats on Paris"], 40)

    assert tokenizer.word_starts[row[1:-1]].sum() == 4


def test_what_a_tokeniser_cannot_say_is_an_error(path: Path) -> None:
    clip(path)
    tokenizer = read_tokenizer(path)

    with pytest.raises(DataError, match="no token for a masked word"):
        _ = tokenizer.mask_id
    with pytest.raises(DataError, match="do not tell by themselves what begins a word"):
        _ = tokenizer.word_starts


def test_files_beside_a_tokeniser_name_its_special_tokens(path: Path) -> None:
    clip(path)
    assert read_tokenizer(path).pad_id == read_tokenizer(path).sep_id
    settings = path.with_name("special_tokens_map.json")
    settings.write_text('{"pad_token": {"content": "<|startoftext|>"}, "mask_token": "<|endoftext|>"}')

    tokenizer = read_tokenizer(path)

    assert (tokenizer.pad_id, tokenizer.mask_id) == (tokenizer.cls_id, tokenizer.sep_id)
    assert tokenizer.settings()["pad_token"] == "<|startoftext|>"  # type: ignore[union-attr]


@pytest.mark.parametrize("make", KINDS)
def test_a_tokeniser_can_be_pickled_and_its_hash_is_that_of_its_rules(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "tokenizer.json"
    make(path)
    tokenizer = read_tokenizer(path)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert np.array_equal(again.encode_batch(TEXTS, 9)[0], tokenizer.encode_batch(TEXTS, 9)[0])

    content = json.loads(path.read_text())
    content["truncation"] = {"max_length": 5, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    path.write_text(json.dumps(content, indent=1))
    assert read_tokenizer(path).hash == tokenizer.hash
    assert np.array_equal(read_tokenizer(path).encode_batch(TEXTS, 9)[0], tokenizer.encode_batch(TEXTS, 9)[0])


def without_special_tokens(content: dict[str, Any]) -> None:
    content["post_processor"] = None


def of_an_unknown_kind(content: dict[str, Any]) -> None:
    content["model"]["type"] = "Unheard"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_special_tokens, "it puts no special tokens around a text; backbones need one before and one after"),
        (of_an_unknown_kind, r"tokenizer\.json: not a tokenizer\.json of the library tokenizers"),
    ],
)
def test_a_file_that_no_backbone_can_use_is_refused(
    path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    roberta(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))

    with pytest.raises(DataError, match=message):
        read_tokenizer(path)
