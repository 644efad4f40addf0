"""The shared heads of pre-training: shapes, tying, and what an imported region head gives to another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlrun import CheckpointError
from vlrun.blocks.decoders import (
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    RegionHead,
    TopicHead,
    WordHead,
    meaning_in_tensors,
    regions_meaning,
)

OUTPUTS = {FEATURES: 5, CLASSES: 4, ATTRIBUTES: 3}


def test_words_are_decoded_where_they_are_wanted() -> None:
    head, text = WordHead(8, 11), torch.rand(2, 3, 8)
    places = torch.tensor([[True, False, False], [False, True, True]])

    scores = head(text)

    assert scores.everywhere().shape == (2, 3, 11)
    torch.testing.assert_close(scores.at(places), scores.everywhere()[places])


def test_a_tied_word_head_has_the_table_that_it_was_given() -> None:
    """Nor does it change it: the backbone has initialised it."""
    table = nn.Parameter(torch.rand(11, 8))
    before = table.clone()

    head = WordHead(8, 11, table)

    assert head.decoder.weight is table
    assert torch.equal(table, before)


def test_word_embeddings_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(11, 8\) do not fit 12 words, 8 wide"):
        WordHead(8, 12, nn.Parameter(torch.rand(11, 8)))


@pytest.mark.parametrize("times_pooled", [False, True])
def test_a_region_head_decodes_what_it_is_asked_for(times_pooled: bool) -> None:
    head = RegionHead(8, OUTPUTS, times_pooled=times_pooled)
    regions, pooled = torch.rand(2, 3, 8), torch.rand(2, 8)

    decoded = {name: states.everywhere() for name, states in head(regions, pooled).items()}

    assert {name: states.shape[2] for name, states in decoded.items()} == OUTPUTS
    other = head(regions, 2 * pooled)[CLASSES].everywhere()
    assert torch.equal(decoded[CLASSES], other) is not times_pooled


def test_topics_are_normalised_over_the_vocabulary() -> None:
    scores = TopicHead(8, 11)(torch.rand(3, 8))

    torch.testing.assert_close(scores.mean(1), torch.zeros(3), atol=1e-6, rtol=0)


def test_a_region_head_takes_the_decoders_that_both_have() -> None:
    trained, head = RegionHead(8, OUTPUTS), RegionHead(8, {CLASSES: 4, "depth": 2})
    theirs = trained.state_dict()

    taken, lines = head.named().adapt(theirs, trained.named().meaning)

    head.load_state_dict(dict(taken))
    assert torch.equal(head.decoders[CLASSES].weight, trained.decoders[CLASSES].weight)
    assert lines == [
        "region_head: its decoder of features left: this run does not guess them",
        "region_head: its decoder of attributes left: this run does not guess them",
        "region_head: its decoder of depth is not in the file; it starts random",
    ]


def test_decoders_of_other_states_are_refused() -> None:
    trained, head = RegionHead(8, OUTPUTS, times_pooled=True), RegionHead(8, OUTPUTS)

    with pytest.raises(CheckpointError, match=r"on their product with the pooled state, .* on region states alone"):
        head.named().adapt(trained.state_dict(), trained.named().meaning)


def test_other_names_of_the_classes_are_said() -> None:
    """ROSITA has names of its own for the detector's classes; the ids are the same."""
    trained, head = RegionHead(8, OUTPUTS), RegionHead(8, OUTPUTS)
    meaning = trained.named({CLASSES: ["dog", "cat", "car", "person"]}).meaning

    _, lines = head.named({CLASSES: ["dogs", "cat", "car", "person"]}).adapt(trained.state_dict(), meaning)

    assert len(lines) == 1
    assert "other names of classes in the file" in lines[0]
    with pytest.raises(ValueError, match="2 names for 4 classes"):
        regions_meaning(OUTPUTS, times_pooled=False, names={CLASSES: ["dog", "cat"]})


def test_words_of_another_vocabulary_are_refused() -> None:
    for head in (WordHead(8, 11), TopicHead(8, 11)):
        with pytest.raises(CheckpointError, match="trained with vocabulary abc, this run's is def"):
            head.named("def").adapt(head.state_dict(), head.named("abc").meaning)


def test_shapes_tell_what_a_head_gives() -> None:
    words, topics, regions = WordHead(8, 11), TopicHead(8, 11), RegionHead(8, OUTPUTS)

    assert meaning_in_tensors("word_head", words.state_dict()) == words.named().meaning
    assert meaning_in_tensors("topic_head", topics.state_dict()) == topics.named().meaning
    assert meaning_in_tensors("region_head", regions.state_dict()) == regions.named().meaning
    assert meaning_in_tensors("answer_head", {}) == {}
