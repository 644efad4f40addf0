"""The topics of a pair: word pieces of its text and of its image, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import DataError, Example, RegionFeatures
from vlrun.blocks.wordpiece import WordPiece
from vlrun_pretraining.items import items_to_train
from vlrun_pretraining.rule import SeenPair, ShownPair
from vlrun_pretraining.topics import SURE, Topics

NAMES = ["red cat,kitten", "blue", "the left", "dogs", "zebra"]

Of = Callable[..., set[str]]


@pytest.fixture
def class_names(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


@pytest.fixture
def topics_of(make_task: Any, make_dataset: Any, wordpiece: WordPiece, class_names: Path, tmp_path: Path) -> Of:
    """``topics_of(kind, text, class_ids, scores)``: the topics of a pair with image ``train0``, as tokens."""
    tokens = (tmp_path / "vocabulary.txt").read_text().split()
    items = items_to_train(make_dataset("train"))

    def of(kind: str, text: str, class_ids: Any = (), scores: Any = None) -> set[str]:
        task = make_task(losses=["matching", "topics"], topics=kind, class_names=class_names)
        count = len(class_ids)
        regions = RegionFeatures("train0", np.zeros((count, 6), np.float16), np.zeros((count, 4), np.float32), 9, 9)
        if scores is not None:
            regions = replace(regions, class_ids=np.array(class_ids, np.int32), class_scores=np.array(scores))
        token_ids = wordpiece.encode_batch([text], 20)[0][0]
        seen = SeenPair(
            Example("1", text, ("train0",)), ShownPair(text, "train0"), token_ids, regions, wordpiece, items
        )
        found = Topics(task.config).of(seen)
        assert found == sorted(set(found))
        return {tokens[token] for token in found}

    return of


def test_of_a_phrase_they_are_its_content_words_and_the_names_of_sure_regions(topics_of: Of) -> None:
    text = "a cat on the left ."
    assert topics_of("phrase", text, [1], [SURE]) == {"cat", "left", "blue"}
    assert topics_of("phrase", text, [1, 3], [SURE - 0.01, 0.9]) == {"cat", "left", "dog", "##s"}
    assert topics_of("phrase", "the dogs", [0], [0.5]) == {"dog", "##s", "red", "cat"}, "the first of two names"
    assert topics_of("phrase", "on the .", [], []) == set()


def test_words_that_the_vocabulary_does_not_know_are_no_topics(topics_of: Of) -> None:
    assert topics_of("phrase", "a zebra", [4], [0.9]) == set()


def test_of_sentences_they_are_those_of_all_texts_of_the_image(topics_of: Of) -> None:
    of_image = {"red", "cat", "blue", "dog", "##s", "left"}  # of all three captions, which are the same for each image
    assert topics_of("sentence", "on the left") == of_image


def test_phrases_need_classes_with_confidences_that_have_names(topics_of: Of) -> None:
    with pytest.raises(DataError, match="have no classes with confidences, which topics: phrase needs"):
        topics_of("phrase", "a cat", [0])
    with pytest.raises(DataError, match="image 'train0' has class 5, and there are 5 names"):
        topics_of("phrase", "a cat", [5], [0.9])
