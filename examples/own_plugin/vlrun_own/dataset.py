"""A dataset that reads existing annotation files in its own way."""

from __future__ import annotations

from pathlib import Path

from vlrun import Dataset, Example, Referent
from vlrun.data.annotations import AnnotationFile


class ShortExpressions(Dataset[Referent]):
    """Referring expressions of at most ``max_words`` words."""

    def __init__(self, path: Path, split: str, max_words: int) -> None:
        self.split = split
        self.file = AnnotationFile(path)
        self.lines = [line for line in range(len(self.file)) if len(self.file[line]["text"].split()) <= max_words]
        self.protocol = {"annotations": path.name, "expressions": f"at most {max_words} words"}

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example[Referent]:
        record = self.file[self.lines[index]]
        target = Referent(tuple(record["box"]), record["height"], record["width"])
        return Example(record["id"], record["text"], (record["image"],), target)
