"""Where NLVR2 comes from, what its files are called, and how large its splits should be (no torch, no numpy)."""

from __future__ import annotations

import re
from dataclasses import dataclass

REPOSITORY = "https://github.com/lil-lab/nlvr"
LXMERT_REPOSITORY = "https://github.com/airsplay/lxmert"

OBTAIN = f"Clone {REPOSITORY}; the annotations are in nlvr2/data"

# test1 is also called test-P, public; test2 test-U, unreleased until 2022. Counted in the files, except train, whose
# size is the paper's (Suhr et al. 2019). So the builder remarks on a difference and does not stop.
PUBLISHED_SIZES = {"train": 86_373, "dev": 6_982, "test1": 6_967, "test2": 6_970}

LXMERT_FILES = {"train": "train.json", "dev": "valid.json", "test1": "test.json"}
"""Our split -> the file of LXMERT's redistribution; test2 is not in it."""

PHENOMENA_FILE = "annotated_dev_examples.txt"

_IDENTIFIER = re.compile(r"(\w+)-(\d+)-(\d+)-(\d+)", re.ASCII)


@dataclass(frozen=True)
class Identifier:
    """The parts of an official identifier: ``dev-850-0-1`` is sentence 1 about pair 0 of image set ``dev-850``."""

    image_set: str
    pair: str
    sentence: str

    @property
    def group(self) -> str:
        """The official scorer's unit of consistency: the identifier without the pair."""
        return f"{self.image_set}--{self.sentence}"

    @property
    def images(self) -> tuple[str, str]:
        """Canonical ids of the left and the right image."""
        return (f"{self.image_set}-{self.pair}-img0", f"{self.image_set}-{self.pair}-img1")


def parse_identifier(text: str) -> Identifier:
    """Takes an identifier of NLVR2 apart.

    Raises:
        ValueError: it is not an official identifier.
    """
    match = _IDENTIFIER.fullmatch(text)
    if match is None:
        raise ValueError("should be split-set-pair-sentence, such as dev-850-0-1 (the older NLVR has shorter ones)")
    split, image_set, pair, sentence = match.groups()
    return Identifier(f"{split}-{image_set}", pair, sentence)
