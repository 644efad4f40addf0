"""Building annotations into a folder that may hold those of another source already (this module imports no torch)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vlrun.errors import DataError, NoRoomError
from vlrun.files import read_json, sha256_of, write_json, writing_inside
from vlrun.plugins.entries import Builder, BuildReport

RECORD = "sources.json"
"""File -> the source that it was built from, beside the annotations."""


def build_annotations(builder: Builder, source: Path, output: Path, *, replace: bool = False) -> BuildReport:
    """Builds into ``output``; files of another source, or of an unknown one, stay as they are unless they are the same.

    All files are made in a folder beside ``output`` first, so that a failure or a refusal leaves everything as it was.

    Args:
        replace: replace such files, too.

    Raises:
        DataError: files of another source would be replaced, or the builder has failed.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file; name a folder for the annotations")
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        with writing_inside(draft):
            report = builder.build(source, draft, output)
        made = sorted(path.relative_to(draft) for path in draft.rglob("*") if path.is_file())
        before = _record(output)
        if not replace:
            _refuse_others(builder, draft, output, made, before)
        for name in made:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(draft / name, output / name)
        write_json(output / RECORD, {**before, **{str(name): builder.source for name in made}})
    except DataError as error:  # messages name the folder that the user knows
        raise DataError([problem.replace(str(draft), str(output)) for problem in error.problems]) from error
    except NoRoomError as error:
        error.filename = str(error.filename).replace(str(draft), str(output))
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return report


def _refuse_others(builder: Builder, draft: Path, output: Path, made: list[Path], before: dict[str, Any]) -> None:
    others = [
        f"  {output / name}  (built from {before.get(str(name)) or 'an unknown source'})"
        for name in made
        if (output / name).is_file()
        and before.get(str(name)) != builder.source
        and sha256_of(output / name) != sha256_of(draft / name)
    ]
    if others:
        raise DataError(
            [
                f"'{builder.source}' makes other files than those that are there, and nothing was written:",
                *others,
                "Name another folder, or replace them with --replace.",
            ]
        )


def _record(output: Path) -> dict[str, Any]:
    """What earlier builds have recorded; empty if that cannot be read."""
    try:
        record = read_json(output / RECORD)
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}
