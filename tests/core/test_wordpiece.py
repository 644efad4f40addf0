"""The tokeniser splits as BERT does; its vocabulary is checked when it is read."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece, train_wordpiece
from vlrun.errors import DataError

WORDS = ["a", "cat", "dog", "##s", "run", "##ning", ",", "猫"]
SHAPES = ("circle", "square", "café")
CAPTIONS = [f"the {colour} {shape} on the left" for colour in ("red", "green") for shape in SHAPES]


def write(path: Path, tokens: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(f"{token}{end}" for token in tokens).encode())
    return path


@pytest.fixture
def wordpiece(tmp_path: Path) -> WordPiece:
    return WordPiece(write(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *WORDS]))


@pytest.fixture
def sentences(golden: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((golden / "rosita" / "text.json").read_text())["items"]
    return items


def vocabulary_from(sentences: list[dict[str, Any]], path: Path) -> Path:
    """The lines of the real vocabulary that the sentences pin down; unpinned tokens and placeholders on the others."""
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    ids, longest = dict(special), f"ids_{max(lengths(sentences))}"
    for item in sentences:
        ids.update(zip(item["tokens"], item[longest][1:-1], strict=False))
    ids = {token: index for token, index in ids.items() if token in special or index not in special.values()}
    seen = dict.fromkeys(t for item in sentences for key in ("tokens", "tokens_without_cleaning") for t in item[key])
    loose = [token for token in seen if token not in ids]
    by_line = {index: token for token, index in ids.items()}
    size = max(by_line) + 1 + len(loose)
    return write(path, [by_line.get(n) or (loose.pop() if loose else f"[unused{n}]") for n in range(size)])


@pytest.mark.golden
@pytest.mark.parametrize(("text", "tokens"), [("cleaned", "tokens"), ("text", "tokens_without_cleaning")])
def test_sentences_fall_into_the_pieces_of_the_original(
    sentences: list[dict[str, Any]], tmp_path: Path, text: str, tokens: str
) -> None:
    wordpiece = WordPiece(vocabulary_from(sentences, tmp_path / "vocab.txt"))

    assert [wordpiece.tokens(item[text]) for item in sentences] == [item[tokens] for item in sentences]


def test_pieces_of_a_row_are_put_together_to_words(wordpiece: WordPiece) -> None:
    ids, _ = wordpiece.encode_batch(["running dogs, xyz", "a"], 20)
    words = wordpiece.words(ids[0].tolist())
    assert words == [("running", [1, 2]), ("dogs", [3, 4]), (",", [5]), ("[UNK]", [6])]
    assert wordpiece.words(ids[1].tolist()) == [("a", [1])]
    cut, _ = wordpiece.encode_batch(["running dogs"], 4)
    assert wordpiece.words(cut[0].tolist()) == [("running", [1, 2])]


def lengths(sentences: list[dict[str, Any]]) -> list[int]:
    """The lengths to which the original padded and cut."""
    found = [int(name.removeprefix("ids_")) for name in sentences[0] if name.startswith("ids_")]
    assert found
    return found


def assert_ids_and_masks_equal(wordpiece: WordPiece, sentences: list[dict[str, Any]]) -> None:
    for length in lengths(sentences):
        token_ids, mask = wordpiece.encode_batch([item["cleaned"] for item in sentences], length)

        assert token_ids.tolist() == [item[f"ids_{length}"] for item in sentences]
        assert mask.tolist() == [item[f"mask_{length}"] for item in sentences]


@pytest.mark.golden
def test_ids_and_masks_equal_the_original(sentences: list[dict[str, Any]], tmp_path: Path) -> None:
    wordpiece = WordPiece(vocabulary_from(sentences, tmp_path / "vocab.txt"))

    assert_ids_and_masks_equal(wordpiece, sentences)


@pytest.mark.golden
@pytest.mark.samples
def test_the_real_vocabulary_gives_the_ids_of_the_original(sentences: list[dict[str, Any]], samples: Path) -> None:
    wordpiece = WordPiece(samples / "vocabs" / "bert_base_uncased_vocab.txt")

    assert_ids_and_masks_equal(wordpiece, sentences)
    assert [wordpiece.tokens(item["text"]) for item in sentences] == [
        item["tokens_without_cleaning"] for item in sentences
    ]


def test_batches_are_as_wide_as_their_longest_text(wordpiece: WordPiece) -> None:
    token_ids, mask = wordpiece.encode_batch(["a cat", "", "a CAT runs"], 20)

    cls, sep, pad = wordpiece.cls_id, wordpiece.sep_id, wordpiece.pad_id
    a, cat, run, s = (5 + WORDS.index(word) for word in ("a", "cat", "run", "##s"))
    assert token_ids.tolist() == [
        [cls, a, cat, sep, pad, pad],
        [cls, sep, pad, pad, pad, pad],
        [cls, a, cat, run, s, sep],
    ]
    assert mask.sum(axis=1).tolist() == [4, 2, 6]


@pytest.mark.parametrize(("max_tokens", "width"), [(20, 8), (7, 7), (6, 6), (4, 4)])
def test_widths_are_rounded_up_but_not_above_the_limit(wordpiece: WordPiece, max_tokens: int, width: int) -> None:
    token_ids, _ = wordpiece.encode_batch(["a cat runs"], max_tokens, round_to=4)

    assert token_ids.shape == (1, width)


def test_cut_texts_still_end_with_the_separator(wordpiece: WordPiece) -> None:
    token_ids, mask = wordpiece.encode_batch(["a cat a cat a cat"], 4)

    assert token_ids[0, -1] == wordpiece.sep_id
    assert mask.all()


def test_chinese_characters_are_words_of_their_own(wordpiece: WordPiece) -> None:
    assert wordpiece.tokens("猫cats") == ["猫", "cat", "##s"]


def test_special_tokens_are_found_by_name_not_by_place(tmp_path: Path) -> None:
    wordpiece = WordPiece(write(tmp_path / "vocab.txt", [*WORDS, *reversed(SPECIAL_TOKENS)]))

    assert (wordpiece.mask_id, wordpiece.pad_id) == (len(WORDS), len(WORDS) + 4)


def test_a_pickled_tokeniser_needs_no_file(tmp_path: Path) -> None:
    vocabulary = write(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *WORDS])
    wordpiece = WordPiece(vocabulary)
    wordpiece.tokens("a cat")
    pickled = pickle.dumps(wordpiece)
    vocabulary.unlink()

    again = pickle.loads(pickled)

    assert again.tokens("a running cat") == ["a", "run", "##ning", "cat"]
    assert again.hash == wordpiece.hash


def test_the_hash_depends_on_tokens_and_order_but_not_on_line_ends(tmp_path: Path) -> None:
    tokens = [*SPECIAL_TOKENS, *WORDS]
    unix = WordPiece(write(tmp_path / "unix.txt", tokens))
    windows = WordPiece(write(tmp_path / "windows.txt", tokens, end="\r\n"))
    swapped = WordPiece(write(tmp_path / "swapped.txt", [*tokens[:-2], *tokens[:-3:-1]]))

    assert unix.hash == windows.hash != swapped.hash


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["[PAD]", "[UNK]", "cat"], r"\[CLS\], \[SEP\], \[MASK\] missing among 3 tokens"),
        ([*SPECIAL_TOKENS, "cat", "dog", "cat"], r"vocab.txt:8: token 'cat' is already on line 6"),
    ],
    ids=["no special tokens", "repeated token"],
)
def test_an_unusable_vocabulary_is_refused(tmp_path: Path, tokens: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        WordPiece(write(tmp_path / "vocab.txt", tokens))


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot read the vocabulary: No such file"):
        WordPiece(tmp_path / "nowhere.txt")


def test_a_trained_vocabulary_covers_its_texts(tmp_path: Path) -> None:
    wordpiece = train_wordpiece(CAPTIONS, 80, tmp_path / "vocab.txt")

    pieces = [piece for caption in CAPTIONS for piece in wordpiece.tokens(caption)]
    assert "[UNK]" not in pieces
    assert wordpiece.tokens("the LEFT") == ["the", "left"]
    assert wordpiece.pad_id == 0
    assert wordpiece.size <= 80


def test_training_gives_the_same_vocabulary_in_every_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vlrun.blocks.wordpiece import train_wordpiece;"
        "print(train_wordpiece(sys.argv[2:], 80, Path(sys.argv[1])).hash)"
    )

    hashes = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / str(number)), *CAPTIONS],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in range(3)
    }

    assert hashes == {train_wordpiece(CAPTIONS, 80, tmp_path / "own.txt").hash + "\n"}


def test_importing_the_tokeniser_imports_no_torch() -> None:
    program = "import sys, vlrun.blocks.wordpiece; print('torch' in sys.modules, 'tokenizers' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.split() == ["False", "False"]


# --- files of tokenizers and transformers ---


def tokenizer_json(folder: Path, **changes: Any) -> Path:
    """What ``tokenizers`` writes for BERT's tokeniser, with some values changed: ``normalizer__lowercase=False``."""
    from tokenizers import BertWordPieceTokenizer

    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *WORDS])}
    path = folder / "tokenizer.json"
    BertWordPieceTokenizer(vocabulary).save(str(path))
    content = json.loads(path.read_text())
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            content[part][name] = value
        else:
            content[part] = value
    path.write_text(json.dumps(content))
    return path


def test_a_tokenizer_json_is_the_same_vocabulary_as_the_text_file(tmp_path: Path, wordpiece: WordPiece) -> None:
    from_json = WordPiece(tokenizer_json(tmp_path))

    assert (from_json.hash, from_json.size) == (wordpiece.hash, wordpiece.size)
    assert from_json.tokens("Cats RUNNING, 猫") == wordpiece.tokens("Cats RUNNING, 猫") != []


def test_files_that_transformers_saves_are_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text_file = write(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *WORDS])
    saved = tmp_path / "saved"
    transformers.BertTokenizerFast(vocab=str(text_file)).save_pretrained(saved)

    theirs = transformers.AutoTokenizer.from_pretrained(saved)
    ours = WordPiece(saved / "tokenizer.json")

    assert ours.hash == WordPiece(text_file).hash
    assert ours.tokens("A cat, running dogs") == theirs.tokenize("A cat, running dogs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer__lowercase": False}, r"do not hold: it is uncased \(lowercase\)$"),
        ({"normalizer__strip_accents": False}, "it normalises and splits as BERT does"),
        ({"pre_tokenizer__type": "Whitespace"}, "it normalises and splits as BERT does"),
        ({"normalizer": None}, "it is uncased"),
        ({"model__type": "BPE"}, "its model is WordPiece"),
        ({"model__vocab": {token: 2 * n for n, token in enumerate([*SPECIAL_TOKENS, *WORDS])}}, "its ids are 0, 1, 2"),
        ({"model": []}, "not a tokenizer.json of the library tokenizers"),
    ],
    ids=["cased", "accents", "splitter", "no normaliser", "BPE", "holes", "no model"],
)
def test_a_tokenizer_json_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        WordPiece(tokenizer_json(tmp_path, **changes))


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")

    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer\.json"):
        WordPiece(tmp_path / "tokenizer.json")


def test_a_cased_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, "[unused1]", "Paris", "##A", "cat"])

    with pytest.raises(
        DataError, match=r"a cased vocabulary \(2 of its tokens have capitals, such as 'Paris', '##A'\)"
    ):
        WordPiece(path)


def test_a_stray_capital_makes_no_vocabulary_cased(tmp_path: Path) -> None:
    path = write(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *(f"w{n}" for n in range(200)), "İ"])

    assert WordPiece(path).size == 206


def test_what_lies_beside_a_vocabulary_may_say_that_it_is_cased(tmp_path: Path) -> None:
    path = write(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, "cat"])
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')

    with pytest.raises(DataError, match=r"a cased vocabulary \(.*tokenizer_config\.json says so\)"):
        WordPiece(path)
