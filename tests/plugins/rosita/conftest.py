"""A ROSITA network of any size, without the real vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun_rosita.model import Rosita

MakeRosita = Callable[..., Rosita]


def write_vocabulary(path: Path, size: int) -> Path:
    words = ["a", "cat", "dog", "##s", "on", "the", "left"]
    tokens = [*SPECIAL_TOKENS, *words, *(f"[unused{n}]" for n in range(size))][:size]
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.fixture
def make_rosita(tmp_path: Path) -> MakeRosita:
    """Builds a small network; any option of ``Rosita`` can be given, and the size of the vocabulary."""

    def make(vocabulary_size: int = 20, **options: Any) -> Rosita:
        wordpiece = WordPiece(write_vocabulary(tmp_path / f"vocabulary_{vocabulary_size}.txt", vocabulary_size))
        sizes: dict[str, Any] = {
            "hidden_size": 8,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_size": 16,
            "max_positions": 12,
            "region_feature_size": 6,
            "num_regions": 3,
            "dropout": 0.1,
        }
        return Rosita(wordpiece, **{**sizes, **options})

    return make
