"""The official files -> one JSON-lines file per split."""

from __future__ import annotations

from pathlib import Path

from vlrun import BuildReport, Config, DataError
from vlrun.data.annotations import AnnotationFile, size_remarks, write_annotations
from vlrun.files import write_json
from vlrun_snli_ve.config import LABELS, SIZES, Label
from vlrun_snli_ve.dataset import StatementRecord


class OfficialRow(Config, extra="ignore"):
    """What we read of a line; captions, parses and the votes of annotators stay behind."""

    pairID: str  # noqa: N815 - as in the file
    sentence2: str
    Flickr30K_ID: str
    gold_label: Label


def build_official(folder: Path, output: Path) -> BuildReport:
    """Translates those of the three files that are there, and writes the list of labels.

    Raises:
        DataError: none of them is there, or a line is damaged; names it.
    """
    counts = {}
    for split in SIZES:
        if (path := folder / f"snli_ve_{split}.jsonl").is_file():
            lines = AnnotationFile(path)
            records = (_record(lines.read(index, OfficialRow)) for index in range(len(lines)))
            counts[split] = write_annotations(output / f"{split}.jsonl", records, StatementRecord, len(lines))
    if not counts:
        raise DataError(f"{folder}: expected {', '.join(f'snli_ve_{split}.jsonl' for split in SIZES)}; none is there")
    write_json(output / "answers.json", LABELS)
    sizes, published = ({split: {"statements": n} for split, n in each.items()} for each in (counts, SIZES))
    return BuildReport(counts, tuple(size_remarks(sizes, published)))


def _record(row: OfficialRow) -> StatementRecord:
    return StatementRecord(id=row.pairID, text=row.sentence2, image=row.Flickr30K_ID, label=row.gold_label)
