"""Which answers an imported answer head chooses from: what is said of them is compared with the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlrun.blocks.answers import AnswerVocabulary
from vlrun.blocks.decoders import ANSWER_HEAD
from vlrun.blocks.heads import num_classes
from vlrun.engine.head_facts import head_of
from vlrun.errors import CheckpointError
from vlrun.plugins.entries import WeightFormat


def answer_remarks(
    source: str,
    tensors: Mapping[str, Tensor],
    weight_format: WeightFormat,
    heads: Mapping[str, Mapping[str, Any]],
    of_file: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Compares the answers that are given for the answer head with its rows, and says what is known and what is not.

    Args:
        heads: what is known of the heads in all.
        of_file: what the file itself says.

    Raises:
        CheckpointError: there is no such head, there are more or fewer answers than rows, or the file lists others.
    """
    head = head_of(ANSWER_HEAD, tensors)
    answers = heads.get(ANSWER_HEAD, {}).get("answers")
    if not head:
        if answers is None:
            return []
        raise CheckpointError(f"{source}: it has no answer head, so it needs no list of answers; leave out --answers")
    try:
        rows = num_classes(head)
    except CheckpointError as error:
        if answers is None:
            return []  # nothing is claimed about it; a task that takes it looks at it again
        raise CheckpointError([f"{source}: {problem}" for problem in error.problems]) from error
    known = weight_format.answer_lists.get(rows)
    belongs = f"; a head of that size belongs to {known}" if known else ""
    if answers is None:
        return [
            f"{ANSWER_HEAD}: {rows:,} rows, and which answers they mean is not known, so a task cannot use them; "
            f"import with --answers LIST{belongs}"
        ]
    if len(answers) != rows:
        raise CheckpointError(
            f"{source}: the answer head has {rows:,} rows, the list of answers has {len(answers):,}: it is not the "
            f"list that this file was trained with{belongs}"
        )
    own = of_file.get(ANSWER_HEAD, {}).get("answers")
    if own is not None and list(own) != list(answers):
        raise CheckpointError(f"{source}: the file itself lists other answers than were given; leave out --answers")
    digest = AnswerVocabulary(tuple(answers)).hash
    order = "as the file says" if own else "whether their order is that of the training cannot be seen in the file"
    return [f"{ANSWER_HEAD}: {rows:,} rows for {rows:,} answers (list {digest}); {order}"]
