"""A dataset that reads existing annotation files in its own way."""

from __future__ import annotations

from vlrun import Dataset, Example, Referent
from vlrun.data.annotations import AnnotationFile
from vlrun_own.config import ShortExpressionsConfig


class ShortExpressions(Dataset[Referent]):
    """Referring expressions of at most ``config.max_words`` words."""

    def __init__(self, config: ShortExpressionsConfig, split: str) -> None:
        self.split = split
        self.file = AnnotationFile(config.split_file(split))
        lengths = [len(self.file[line]["text"].split()) for line in range(len(self.file))]
        self.lines = [line for line, length in enumerate(lengths) if length <= config.max_words]
        self.protocol = {"dataset": config.name, "annotations": f"{split}.jsonl"}
        self.protocol["expressions"] = f"at most {config.max_words} words"

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example[Referent]:
        record = self.file[self.lines[index]]
        target = Referent(tuple(record["box"]), record["height"], record["width"])
        return Example(record["id"], record["text"], (record["image"],), target)
