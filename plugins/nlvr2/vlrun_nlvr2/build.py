"""The official files, or LXMERT's, -> one JSON-lines file per split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from vlrun import BuildReport, DataError, first_few
from vlrun.data.annotations import size_remarks, write_annotations
from vlrun_nlvr2.records import ImagePairStatement, Subset
from vlrun_nlvr2.source_files import LxmertRow, OfficialRow, read_json_lines, read_json_list, read_phenomena
from vlrun_nlvr2.sources import LXMERT_FILES, OBTAIN, PHENOMENA_FILE, PUBLISHED_SIZES, parse_identifier

SUBSETS: tuple[Subset, ...] = ("balanced", "unbalanced")

Records = dict[str, list[ImagePairStatement]]


def build_official(folder: Path, output: Path) -> BuildReport:
    """Translates those of train.json, dev.json, test1.json and test2.json that are there, with subsets and phenomena.

    Raises:
        DataError: none of them is there, or lines are damaged or contradict others.
    """
    folder = _folder_with([f"{split}.json" for split in PUBLISHED_SIZES], folder, inside="data")
    problems: list[str] = []
    remarks: list[str] = []
    phenomena = _phenomena(folder, problems)
    records: Records = {}
    for split in PUBLISHED_SIZES:
        path = folder / f"{split}.json"
        if not path.is_file():
            continue
        rows = read_json_lines(path, problems)
        subsets = _subsets(folder, split, {row.identifier for row in rows}, problems)
        if subsets is None and split != "train":
            remarks.append(f"split '{split}': no file says which statements are balanced, so it has no such scores")
        annotated = phenomena if split == "dev" else {}
        records[split] = [_official_record(row, subsets, annotated.get(row.sentence.strip())) for row in rows]
    return _written(records, output, problems, remarks)


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    """Translates the files that LXMERT publishes: valid.json becomes dev, test.json becomes test1.

    Raises:
        DataError: none of them is there, or records are damaged.
    """
    folder = _folder_with(list(LXMERT_FILES.values()), folder, inside="nlvr2")
    problems: list[str] = []
    records: Records = {}
    for split, name in LXMERT_FILES.items():
        if (path := folder / name).is_file():
            records[split] = [_lxmert_record(row) for row in read_json_list(path, problems)]
    remark = "LXMERT's files name no subsets and no phenomena, so there are no scores on them; the official files do"
    return _written(records, output, problems, [remark])


def _folder_with(names: Sequence[str], folder: Path, inside: str) -> Path:
    """``folder``, or the folder ``inside`` it; checked to hold at least one of the files."""
    for candidate in (folder, folder / inside):
        if any((candidate / name).is_file() for name in names):
            return candidate
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise DataError(
        f"{folder}: expected a folder with some of {', '.join(names)} "
        f"(found: {', '.join(first_few(present, 10)) or 'nothing'}). {OBTAIN}"
    )


def _phenomena(folder: Path, problems: list[str]) -> dict[str, list[str]]:
    places = (folder, folder / "util", folder.parent / "util")  # the last as in the authors' repository
    paths = [path for place in places if (path := place / PHENOMENA_FILE).is_file()]
    return read_phenomena(paths[0], problems) if paths else {}


def _subsets(folder: Path, split: str, identifiers: set[str], problems: list[str]) -> dict[str, list[Subset]] | None:
    """Identifier -> the subsets that hold it; None where there is no file of any subset."""
    paths = {subset: folder / subset / f"{subset}_{split}.json" for subset in SUBSETS}
    if not any(path.is_file() for path in paths.values()):
        return None
    subsets: dict[str, list[Subset]] = {}
    for subset, path in paths.items():
        if not path.is_file():
            problems.append(f"{path}: is missing, although the file of the other subset is there")
            continue
        for row in read_json_lines(path, problems):
            if row.identifier not in identifiers:
                problems.append(f"{path}: '{row.identifier}' is not in {split}.json")
            subsets.setdefault(row.identifier, []).append(subset)
    return subsets


def _official_record(
    row: OfficialRow, subsets: Mapping[str, Sequence[Subset]] | None, categories: Sequence[str] | None
) -> ImagePairStatement:
    identifier = parse_identifier(row.identifier)
    return ImagePairStatement(
        id=row.identifier,
        text=row.sentence,
        images=identifier.images,
        label=None if row.label is None else row.label == "True",
        group=identifier.group,
        subsets=None if subsets is None else tuple(subsets.get(row.identifier, ())),
        categories=None if categories is None else tuple(categories),
    )


def _lxmert_record(row: LxmertRow) -> ImagePairStatement:
    return ImagePairStatement(
        id=row.identifier,
        text=row.sent,
        images=(row.img0, row.img1),
        label=None if row.label is None else row.label == 1,
        group=parse_identifier(row.identifier).group,
    )


def _written(records: Records, output: Path, problems: Sequence[str], remarks: Sequence[str]) -> BuildReport:
    if problems:
        raise DataError(first_few(problems))
    counts = {
        split: write_annotations(output / f"{split}.jsonl", statements, ImagePairStatement)
        for split, statements in records.items()
    }
    sizes = {split: {"statements": count} for split, count in counts.items()}
    published = {split: {"statements": count} for split, count in PUBLISHED_SIZES.items()}
    return BuildReport(
        counts, (*size_remarks(sizes, published), *_hidden_remarks(records), *_leak_remarks(records), *remarks)
    )


def _hidden_remarks(records: Records) -> list[str]:
    hidden = {split: sum(record.label is None for record in statements) for split, statements in records.items()}
    return [
        f"split '{split}': {count:,} of {len(records[split]):,} statements have no label: predicted, not scored"
        for split, count in hidden.items()
        if count
    ]


def _leak_remarks(records: Records) -> list[str]:
    """Splits with images in common, as a random split of train.json has: a set's eight photographs recur in it."""
    sets = {
        split: {parse_identifier(record.id).image_set for record in statements} for split, statements in records.items()
    }
    return [
        f"splits '{one}' and '{other}' share {shared:,} image sets, so scores on one after training on the other are "
        "too high; split train.json by image set or by its key `directory`"
        for one, other in combinations(sets, 2)
        if (shared := len(sets[one] & sets[other]))
    ]
