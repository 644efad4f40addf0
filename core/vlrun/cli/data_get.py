"""``runner data list`` and ``runner data get``: what others publish, and getting it."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.config.roots import usual_data_root
from vlrun.errors import DataError, PluginError, UsageError
from vlrun.files import lock_file
from vlrun.foreign.printing import say, say_json
from vlrun.plugins.manager import create_plugins

if TYPE_CHECKING:
    from vlrun.data.downloading import Fetched, Fetcher
    from vlrun.plugins.downloads import Download


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """--json alone."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_get_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, where to, mirrors of one's own, a hash to accept."""
    parser.add_argument("name", metavar="DOWNLOAD", help="as `runner data list` shows it")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to put it (default: downloads/NAME under VLRUN_DATA or data)"
    )
    parser.add_argument(
        "--from",
        dest="mirrors",
        metavar="MIRROR",
        action="append",
        default=[],
        help="folder, file:// or http(s):// address of a folder with the files, asked first; may be repeated",
    )
    parser.add_argument("--again", action="store_true", help="get files that are there already once more")
    parser.add_argument("--offline", action="store_true", help="ask those of --from alone, nothing on the network")
    parser.add_argument(
        "--accept-sha256", default="", metavar="HASH", help="take a file with this hash although another is published"
    )


def show_list(arguments: argparse.Namespace) -> int:
    """Lists all downloads."""
    from vlrun.cli.data_prepare import describe

    downloads = create_plugins().downloads()
    if arguments.json:
        say_json([{**asdict(item), "is_automatic": item.is_automatic} for item in downloads.values()])
        return 0
    for download in downloads.values():
        say(*[*describe(download), f"  makes {download.kind} {download.makes}"])
    return 0


def get(arguments: argparse.Namespace) -> int:
    """Gets the files of one download and unpacks archives."""
    from vlrun.data.downloading import Fetcher
    from vlrun.data.trees import DOWNLOADS_FOLDER
    from vlrun.reporting.progress import progress_on_stderr

    plugins = create_plugins()
    download = plugins.downloads().get(arguments.name)
    if download is None:
        raise PluginError(plugins.why_missing("download", arguments.name))
    if not download.files:
        raise UsageError(_by_hand(download))
    if not download.is_automatic and not arguments.mirrors:
        raise UsageError(_by_hand(download))
    data_root = usual_data_root()
    folder = arguments.to or data_root / DOWNLOADS_FOLDER / download.name
    with progress_on_stderr() as reporters, _alone(folder):
        fetcher = Fetcher(
            folder,
            arguments.mirrors,
            arguments.accept_sha256.lower(),
            reporters.note,
            reporters.progress,
            is_offline=arguments.offline,
        )
        try:
            _get_all(download, fetcher, arguments.again)
        except KeyboardInterrupt:
            reporters.note("the same command continues")
            raise
    say(f"next: runner data prepare EXPERIMENT{'' if arguments.to is None else f' --from {shlex.quote(str(folder))}'}")
    return 0


def _get_all(download: Download, fetcher: Fetcher, again: bool) -> None:
    """All files; one that cannot be had stops none of the others."""
    from vlrun.data.archives import DamagedArchiveError, unpack

    problems = []
    for file in download.files:
        try:
            if again:
                (fetcher.folder / file.name).unlink(missing_ok=True)
            fetched = fetcher.fetch(file)
            say(_line(fetched, file.sha256))
            if file.is_archive and not fetcher.is_unpacked(file):
                unpacked = unpack(fetched.path, fetcher.folder, fetcher.progress)
                fetcher.note_unpacked(file)
                say(f"  unpacked {len(unpacked):,} files into {fetcher.folder}")
        except DamagedArchiveError as error:
            (fetcher.folder / file.name).unlink()
            problems += [*error.problems, f"{file.name} was removed; the same command gets it again"]
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError([*problems, f"by hand: {download.page}; then put the files into {fetcher.folder}"])


def _line(fetched: Fetched, published: str | None) -> str:
    size = fetched.path.stat().st_size
    if fetched.accepted:
        check = f"another hash than published was accepted: {fetched.sha256}"
    else:
        check = "hash as published" if published else f"no hash is published; this one has sha256 {fetched.sha256}"
    return f"{fetched.path}: {size:,} bytes from {fetched.mirror or 'before'}, {check}"


def _by_hand(download: Download) -> str:
    steps = "\n".join(f"  {step}" for step in download.manual_steps)
    return (
        f"{download.name} cannot be got by a program. By hand ({download.page}):\n{steps}\n"
        "then: runner data prepare EXPERIMENT --from FOLDER"
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second ``get`` out of the same folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(folder / ".lock")
    except BlockingIOError as error:
        raise DataError(f"{folder}: another process is getting files into it") from error
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    with os.fdopen(lock):
        yield
