"""Small networks of the plugin, without the real vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece

WORDS = ("a", "cat", "dog", "##s", "on", "the", "left", "red", "ball")


@pytest.fixture
def wordpiece(tmp_path: Path) -> WordPiece:
    path = tmp_path / "vocabulary.txt"
    path.write_text("".join(f"{token}\n" for token in (*SPECIAL_TOKENS, *WORDS)), encoding="utf-8")
    return WordPiece(path)
