"""The examples that an evaluation has kept in a run folder, as a page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrun.reporting.checked import read_checked

FOLDER = "examples"

_KINDS = {"wrong": "Wrong", "right": "Right", "unjudged": "Without a verdict"}
_PICTURE = "data:image/jpeg;base64,"


@dataclass(frozen=True)
class ShownImage:
    """An image of an example; ``picture`` is its data address, empty where there is no picture."""

    id: str
    caption: str
    picture: str


@dataclass(frozen=True)
class ShownExample:
    """One prediction. ``verdict`` says how right it is, where it is neither right nor wrong altogether."""

    id: str
    texts: list[str]
    predicted: str
    right: str
    verdict: str
    images: list[ShownImage]


@dataclass(frozen=True)
class ExampleGroup:
    """The examples of one kind of a split."""

    title: str
    examples: list[ShownExample]


def read_examples(run_folder: Path, splits: Sequence[tuple[str, str]] = ()) -> list[ExampleGroup]:
    """Reads the examples of all splits, by task, split and kind; a damaged file is left out.

    Args:
        splits: (task, split) in the order in which they are shown; others follow by name.
    """
    places = {split: place for place, split in enumerate(dict.fromkeys(splits))}
    files = [read_checked(path) for path in sorted((run_folder / FOLDER).glob("*.json"))]
    files.sort(key=lambda content: places.get((str(content.get("task")), str(content.get("split"))), len(places)))
    groups: dict[str, list[ShownExample]] = {}
    for content in files:
        for record in _objects(content.get("examples")):
            kind = _KINDS.get(str(record.get("kind")), _KINDS["unjudged"])
            where = " ".join(str(part) for part in (content.get("task"), content.get("split")) if part)
            question = f", {record['question']}" if record.get("question") else ""
            groups.setdefault(f"{kind}: {where}{question}", []).append(_shown(record))
    return [ExampleGroup(title, examples) for title, examples in groups.items()]


def _shown(record: Mapping[str, Any]) -> ShownExample:
    texts, credit = record.get("texts"), record.get("credit")
    is_partly = isinstance(credit, float | int) and 0 < credit < 1
    return ShownExample(
        id=str(record.get("id", "")),
        texts=[str(text) for text in texts] if isinstance(texts, list) else [],
        predicted=str(record.get("predicted", "")),
        right=str(record.get("right", "")),
        verdict=f"{credit:.0%} right" if is_partly else "",
        images=[_image(image) for image in _objects(record.get("images"))],
    )


def _image(record: Mapping[str, Any]) -> ShownImage:
    picture = str(record.get("picture") or "")
    return ShownImage(
        str(record.get("id", "")),
        str(record.get("caption", "")),
        picture if picture.startswith(_PICTURE) else "",  # nothing that a page would fetch
    )


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())
