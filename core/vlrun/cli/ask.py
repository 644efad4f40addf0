"""``runner ask RUN``: ask the model of a run about an image, or many questions from a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.cli.detectors import PhotographReader, add_detector_arguments, how_to_name_one, photograph_reader
from vlrun.errors import DataError, RunnerError, UsageError, first_few

if TYPE_CHECKING:
    from vlrun.interfaces.question import Answer
    from vlrun.runs.ask import Image, LoadedRun

    Asked = tuple[Any, list[str], list[Image]]  # id, texts, images


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
        "--image", action="append", default=[], type=Path, metavar="FILE", help="a photograph; needs --detector"
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
    parser.add_argument("--draw", type=Path, metavar="OUT", help="write the picture with the box and the runner-up")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the picture of --image-id, for --draw")
    parser.add_argument("--json", action="store_true", help="machine-readable output; of a file, a line per question")


def run(arguments: argparse.Namespace) -> int:
    """Prints the answer, or those to all questions of the file."""
    _check(arguments)
    asked = list(_questions(arguments))
    from vlrun.runs.ask import load_run

    reader = photograph_reader(arguments)
    loaded = load_run(
        arguments.run_folder, arguments.checkpoint, task=arguments.task, overrides=arguments.overrides, detector=reader
    )
    if reader is not None:
        _note_other_features(loaded, reader)
    if arguments.file is not None:
        _refuse_wrong_questions(loaded, asked, arguments.file)
    for name, texts, images in asked:
        answer = loaded.ask(texts, images, top=max(arguments.top, 2 if arguments.draw else 1))
        if arguments.draw:
            from vlrun.blocks.pictures import draw_answer

            draw_answer(answer, arguments.picture or arguments.image[0], arguments.draw)
        _print(answer.cut(arguments.top), name, arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what makes no sense before anything is loaded."""
    given = [arguments.image_id, arguments.image_ids, arguments.image]
    if arguments.file is not None and (arguments.text or arguments.draw or any(given)):
        raise UsageError("--file has the texts and images, and nothing is drawn: leave out --text, --image-id, --draw")
    if arguments.file is None and not (arguments.text and any(given)):
        raise UsageError("ask with --text and --image-id (or --image-ids, --image), or with --file")
    if arguments.top < 1:
        raise UsageError(f"--top {arguments.top}: at least one answer has to be shown")
    if arguments.draw and not (arguments.picture or arguments.image):
        raise UsageError("--draw needs the picture itself: --picture FILE")
    if arguments.draw and arguments.draw.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--draw {arguments.draw}: name it .png or .jpg")
    if arguments.image and arguments.detector is None:
        raise UsageError(
            f"--image {arguments.image[0]}: to find the regions of a photograph it takes {how_to_name_one()}; images "
            "with stored features need none: --image-id ID"
        )


def _questions(arguments: argparse.Namespace) -> Iterator[Asked]:
    if arguments.file is None:
        yield None, arguments.text, [*arguments.image_id, *_ids_in(arguments.image_ids), *arguments.image]
        return
    problems = []
    for number, line in enumerate(_lines(arguments.file), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            texts, images = _several(fields, "text"), _several(fields, "image_id")
        except (ValueError, TypeError) as error:
            problems.append(
                f"{arguments.file}:{number}: expected a JSON object with text (or texts) and image_id (or image_ids): "
                f"{error}"
            )
            continue
        yield fields.get("id", number), texts, [*images]
    if problems:
        raise DataError(first_few(problems))


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


def _refuse_wrong_questions(loaded: LoadedRun, asked: Sequence[Asked], file: Path) -> None:
    """Looks at all questions before the first is answered.

    Raises:
        DataError: every question that cannot be asked.
    """
    problems = []
    for name, texts, images in asked:
        try:
            loaded.question(texts, images)
        except RunnerError as error:
            problems += [f"{file}: question {name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise DataError(first_few(problems))


def _note_other_features(loaded: LoadedRun, reader: PhotographReader) -> None:
    """Says that a photograph has other features than the model was trained on, unless both are known to be alike."""
    from vlrun.data.feature_check import stated_origin
    from vlrun.features.origin import FeatureOrigin, differ

    if loaded.store is None:
        return
    trained, manifest, now = stated_origin(loaded.store), loaded.store.manifest, reader.detector.describe()
    boxes = (manifest.min_regions, manifest.max_regions)
    if trained.extractor and differ(FeatureOrigin(now), boxes, trained) is not False:
        print(
            f"note: the run's features are of {trained.extractor}; those of photographs are of {now}", file=sys.stderr
        )


def _print(answer: Answer, name: Any, arguments: argparse.Namespace) -> None:
    from vlrun.reporting.tables import TextTable, plain

    if arguments.json:
        fields = answer.as_json() if name is None else {"id": name, **answer.as_json()}
        print(json.dumps(fields, indent=2 if name is None else None, ensure_ascii=False), flush=True)
        return
    if name is not None:
        print(plain(f"{name}: {' | '.join(answer.question.texts)}"))

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
    print("\n".join(table.as_lines(indent=0 if name is None else 2)), flush=True)
