"""``runner ask RUN``: ask the model of a run about an image, or many questions from a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.cli.detectors import (
    add_detector_arguments,
    detector_of_run,
    how_to_name_one,
    photograph_reader,
    run_reads_pictures,
)
from vlrun.errors import DataError, RunnerError, UsageError
from vlrun.foreign.json import parse_json
from vlrun.foreign.printing import say, say_json
from vlrun.interfaces.examples import PICTURE_SUFFIXES
from vlrun.reporting.tables import TextTable

if TYPE_CHECKING:
    from vlrun.interfaces.question import Answer
    from vlrun.runs.ask import Image, LoadedRun

    Asked = tuple[list[str], list[Image]]  # texts, images


@dataclass(frozen=True)
class FileLine:
    """A line of ``--file``.

    Attributes:
        number: of the line in the file, from 1.
        name: the question's id, or the number.
        asked: texts and images, or what is wrong with the line.
    """

    number: int
    name: Any
    asked: Asked | str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, and a question or a file of them."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the run's config.yaml")
    parser.add_argument("--text", action="append", default=[], help="the question; several captions for retrieval")
    parser.add_argument(
        "--image-id",
        action="append",
        default=[],
        metavar="ID",
        help="an image of the run's region features; may be repeated where the task takes several",
    )
    parser.add_argument(
        "--image-ids",
        type=Path,
        metavar="PATH",
        help="many: a file with an id on each line, or a folder of pictures that are named by their ids",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a photograph, or a folder of them; needs --detector",
    )
    add_detector_arguments(parser)
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="JSON lines with text (or texts) and image_id (or image_ids), and perhaps an id",
    )
    parser.add_argument("--task", help="the task of a joint run, by its label")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a checkpoint folder (default: best)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many answers are shown (default: 5)")
    parser.add_argument(
        "--attention",
        action="store_true",
        help="say how much the text attends to each region, where the backbone shows it; --draw draws it too",
    )
    parser.add_argument("--draw", type=Path, metavar="OUT", help="write the picture with the box and the runner-up")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the picture of --image-id, for --draw")
    parser.add_argument("--json", action="store_true", help="machine-readable output; of a file, a line per question")


def run(arguments: argparse.Namespace) -> int:
    """Prints the answer, or those to all questions of the file."""
    _check(arguments)
    asked = list(_questions_in(arguments.file)) if arguments.file is not None else []
    images = [*arguments.image_id, *_ids_in(arguments.image_ids), *_photographs(arguments.image)]
    from vlrun.runs.ask import load_run

    reader = photograph_reader(arguments)
    loaded = load_run(
        arguments.run_folder, arguments.checkpoint, task=arguments.task, overrides=arguments.overrides, detector=reader
    )
    if reader is not None and (note := loaded.note_on_photographs(reader.detector)):
        say(f"note: {note}", to=sys.stderr)
    if arguments.file is not None:
        return _answer_file(loaded, asked, arguments)

    top = max(arguments.top, 2 if arguments.draw else 1)
    answer = loaded.ask(arguments.text, images, top=top, attention=arguments.attention)
    if arguments.attention and not answer.attention:
        backbone = loaded.run.experiment.backbone.name
        say(f"note: backbone '{backbone}' does not show what it attends to", to=sys.stderr)
    if arguments.draw:
        from vlrun.blocks.pictures import draw_answer

        draw_answer(answer, _picture(answer, images, arguments), arguments.draw)
    _print(answer.cut(arguments.top), None, arguments)
    return 0


def _answer_file(loaded: LoadedRun, asked: Sequence[FileLine], arguments: argparse.Namespace) -> int:
    """Answers what can be answered of a file, in order; every other line is named with what is wrong with it."""
    answers = loaded.ask_many([line.asked for line in asked if not isinstance(line.asked, str)], top=arguments.top)
    wrong = 0
    for line in asked:
        answer = DataError(line.asked) if isinstance(line.asked, str) else next(answers)
        if isinstance(answer, RunnerError):
            wrong += 1
            for problem in str(answer).splitlines():
                say(f"{arguments.file}:{line.number}: {problem}", to=sys.stderr, flush=True)
        else:
            _print(answer, line.name, arguments)
    if wrong:
        say(f"{arguments.file}: {wrong:,} of {len(asked):,} questions have no answer", to=sys.stderr)
    return DataError.exit_status if wrong else 0


def _picture(answer: Answer, images: Sequence[Image], arguments: argparse.Namespace) -> Path:
    """The picture that is drawn on: that of the image whose attention is known, else of the first one."""
    number = answer.question.image_ids.index(answer.attention[0].image_id) if answer.attention else 0
    given = arguments.picture or images[number]
    if not isinstance(given, Path):
        raise UsageError(f"--draw needs the picture of image '{given}': --picture FILE")
    return given


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what makes no sense before anything is loaded."""
    given = [arguments.image_id, arguments.image_ids, arguments.image]
    if arguments.file is not None and (arguments.text or arguments.draw or arguments.attention or any(given)):
        raise UsageError(
            "--file has the texts and images, and nothing but answers is told: leave out --text, --image-id, --draw, "
            "--attention"
        )
    if arguments.file is None and not (arguments.text and any(given)):
        raise UsageError("ask with --text and --image-id (or --image-ids, --image), or with --file")
    if arguments.top < 1:
        raise UsageError(f"--top {arguments.top}: at least one answer has to be shown")
    if arguments.draw and not (arguments.picture or arguments.image):
        raise UsageError("--draw needs the picture itself: --picture FILE")
    if arguments.draw and arguments.draw.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"--draw {arguments.draw}: name it .png or .jpg")
    if arguments.image and arguments.detector is None and not _takes_photographs(arguments.run_folder):
        raise UsageError(
            f"--image {arguments.image[0]}: to find the regions of a photograph it takes {how_to_name_one()}; images "
            "with stored features need none: --image-id ID"
        )


def _takes_photographs(run_folder: str | Path) -> bool:
    """Whether a run takes photographs without being given a detector: it has one, or sees them itself."""
    return detector_of_run(run_folder) is not None or run_reads_pictures(run_folder)


def _questions_in(file: Path) -> Iterator[FileLine]:
    """The questions of a file, in order; of a line that is none, what is wrong with it."""
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
            texts, images = _several(fields, "text"), _several(fields, "image_id")
            json.dumps(fields, ensure_ascii=False).encode()  # \ud800 is in no text that can be printed
        except (ValueError, TypeError, RecursionError) as error:
            expected = "expected a JSON object with text (or texts) and image_id (or image_ids)"
            yield FileLine(number, number, f"{expected}: {error}")
        else:
            yield FileLine(number, fields.get("id", number), (texts, [*images]))


def _several(fields: Any, name: str) -> list[str]:
    """The value of ``name``, or those of its plural."""
    if not isinstance(fields, dict):
        raise TypeError("it is no object")
    if (name in fields) == (f"{name}s" in fields):
        raise TypeError(f"give one of {name} and {name}s")
    values = [fields[name]] if name in fields else fields[f"{name}s"]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} is a text, {name}s a list of texts")
    return values


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _ids_in(path: Path | None) -> Sequence[str]:
    """The ids that --image-ids names."""
    if path is None:
        return []
    if path.is_dir():
        from vlrun.blocks.pictures import pictures_in

        ids = [picture.name for picture in pictures_in(path)]
    else:
        ids = [line.strip() for line in _lines(path) if line.strip()]
    if not ids:
        raise DataError(f"--image-ids {path}: it names no images")
    return ids


def _photographs(paths: Sequence[Path]) -> list[Path]:
    """The photographs that --image names, with those of its folders."""
    from vlrun.blocks.pictures import pictures_in

    found: list[Path] = []
    for path in paths:
        photographs = pictures_in(path) if path.is_dir() else [path]
        if not photographs:
            raise DataError(f"--image {path}: there is no JPEG or PNG in this folder")
        found += photographs
    return found


def _print(answer: Answer, name: Any, arguments: argparse.Namespace) -> None:
    if arguments.json:
        fields = answer.as_json() if name is None else {"id": name, **answer.as_json()}
        say_json(fields, indent=2 if name is None else None, flush=True)
        return
    if name is not None:
        say(f"{name}: {' | '.join(answer.question.texts)}")

    rows = [
        (
            choice.text,
            "" if choice.probability is None else f"{choice.probability:.3f}",
            "" if choice.box is None else "[" + ", ".join(f"{side:.0f}" for side in choice.box) + "]",
        )
        for choice in answer.choices
    ]
    used = [number for number in range(3) if any(row[number] for row in rows)]
    table = TextTable((), [tuple(row[number] for number in used) for row in rows])
    say(*table.as_lines(indent=0 if name is None else 2), flush=True)
    for attention in answer.attention:
        best = sorted(range(len(attention.shares)), key=lambda number: -attention.shares[number])[: arguments.top]
        shares = ", ".join(f"region {number} {attention.shares[number]:.3f}" for number in best)
        say(f"attention to {attention.image_id}: {shares}", flush=True)
